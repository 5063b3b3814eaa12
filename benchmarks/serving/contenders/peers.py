"""Servers that are a Python module of :mod:`benchmarks.serving.peers`."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import ROOT
from benchmarks.serving.contenders.base import PASSIVE, Contender, Site, free_port
from benchmarks.serving.environments import ENVIRONMENTS, Environment
from benchmarks.serving.material import INT8
from benchmarks.serving.peers.place import EAGER, Place
from benchmarks.serving.processes import started
from benchmarks.serving.servers import RestServer


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.serving.peers.{name}"]


def _environment(folder: str) -> dict[str, str]:
    """Of a framework that leaves nothing behind and reports to nobody."""
    return {
        "TMPDIR": folder,
        "RAY_TMPDIR": folder,
        "BENTOML_HOME": f"{folder}/bentoml",
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_USAGE_STATS_ENABLED": "0",
        # The workers of some start elsewhere than in the project's folder, and an environment of a peer's own does not
        # have the project.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH")])),
    }


def _peer(
    name: str,
    title: str,
    command: Sequence[str],
    needs: tuple[str, ...],
    variant: str,
    form: str = "file",
    route: str = "/predict",
    environment: Environment | None = None,
) -> Contender:
    """A peer; ``PORT`` in its command becomes the port."""

    @contextmanager
    def start(site: Site) -> Iterator[RestServer]:
        place = Place(port=free_port(), variant=variant, material=site.material.absolute())
        actual = [part.replace("PORT", str(place.port)) for part in command]
        # A short name: Ray's sockets lie in it, and a socket's path has at most 107 bytes.
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
            environment = _environment(folder) | place.as_environment() | ({} if variant == EAGER else PASSIVE)
            with started(actual, ROOT, site.log(name), environment) as process:
                yield RestServer(process=process, url=f"http://127.0.0.1:{place.port}{route}", form=form)

    return Contender(
        name=name,
        title=title,
        kind="eager" if variant == EAGER else "ours",
        start=start,
        reference=variant,
        needs=needs,
        environment=environment,
        sees_sizes=form != "pixels",
    )


def _both(name: str, title: str, command: Sequence[str], needs: tuple[str, ...], form: str = "file") -> list[Contender]:
    return [
        _peer(f"{name}-ours", f"{title}, our predictor", command, (*needs, "openvino"), INT8, form),
        _peer(f"{name}-eager", f"{title}, eager", command, needs, EAGER, form),
    ]


def _apart(name: str, title: str, package: str, route: str, form: str, options: Sequence[str] = ()) -> Contender:
    """A peer in an environment of its own, with our predictor."""
    environment = ENVIRONMENTS[package]
    command = [str(environment.python), "-m", f"benchmarks.serving.peers.{package}_app", *options]
    return _peer(name, title, command, ("openvino",), INT8, form, route, environment)


# By default it logs each request.
_QUIET = ("--configure_logging", "false")
_V1 = "/v1/models/resnet18:predict"
_BENTO = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving.peers.bento_app:Classifier"]

CONTENDERS = (
    *_both("fastapi", "FastAPI", _module("fastapi_app"), ("fastapi", "uvicorn")),
    *_both("litserve", "LitServe", _module("litserve_app"), ("litserve",), "octets"),
    *_both("bentoml", "BentoML", [*_BENTO, "--host", "127.0.0.1", "--port", "PORT"], ("bentoml",), "form"),
    *_both("ray", "Ray Serve", _module("ray_app"), ("ray",)),
    _apart("mlserver-predictor", "MLServer, our predictor", "mlserver", "/v2/models/resnet18/infer", "v2"),
    _apart("kserve-predictor", "KServe, our predictor", "kserve", _V1, "v1", _QUIET),
    _apart("kserve-predictor-file", "KServe, our predictor, the file as body", "kserve", _V1, "file", _QUIET),
    _peer("flask", "Flask, as the article has it", _module("flask_app"), ("flask",), EAGER, form="pixels"),
)
