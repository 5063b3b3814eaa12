"""Servers that are a Python module of :mod:`benchmarks.serving.peers`."""

import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import ROOT
from benchmarks.serving.contenders.base import Contender, Site, free_port
from benchmarks.serving.material import INT8
from benchmarks.serving.peers.place import Family, Place
from benchmarks.serving.process_tree import started
from benchmarks.serving.servers import RestServer

PASSIVE = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}
"""As this project's server has it: part of what is inside, where our predictor is inside."""


def _module(name: str) -> list[str]:
    return [sys.executable, "-m", f"benchmarks.serving.peers.{name}"]


@contextmanager
def _own_folders() -> Iterator[dict[str, str]]:
    """The environment of a framework that leaves nothing behind and reports to nobody."""
    # Short on purpose: Ray's sockets lie in it, and a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as folder:
        yield {
            "TMPDIR": folder,
            "RAY_TMPDIR": folder,
            "BENTOML_HOME": f"{folder}/bentoml",
            "BENTOML_DO_NOT_TRACK": "True",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
        }


def _peer(
    name: str,
    title: str,
    command: Sequence[str],
    needs: tuple[str, ...],
    family: Family,
    form: str = "file",
    is_default: bool = True,
    sees_sizes: bool = True,
) -> Contender:
    """A peer; ``PORT`` in its command becomes the port."""

    @contextmanager
    def start(site: Site) -> Iterator[RestServer]:
        place = Place(port=free_port(), family=family, material=site.material.absolute(), variant=INT8)
        environment = place.as_environment()
        if family == "ours":
            environment["OMP_WAIT_POLICY"] = "PASSIVE"
        actual = [part.replace("PORT", str(place.port)) for part in command]
        with _own_folders() as folders, started(actual, ROOT, site.log(name), {**environment, **folders}) as process:
            yield RestServer(process=process, url=f"http://127.0.0.1:{place.port}/predict", bodies=site.work, form=form)

    return Contender(
        name=name,
        title=title,
        kind="ours" if family == "ours" else "eager",
        start=start,
        reference=INT8 if family == "ours" else "eager",
        needs=needs,
        is_default=is_default,
        sees_sizes=sees_sizes,
    )


def _both(name: str, title: str, command: Sequence[str], needs: tuple[str, ...], form: str = "file") -> list[Contender]:
    return [
        _peer(f"{name}-ours", f"{title}, our predictor", command, needs, "ours", form),
        _peer(f"{name}-eager", f"{title}, eager", command, needs, "eager", form),
    ]


_BENTO = [sys.executable, "-m", "bentoml", "serve", "benchmarks.serving.peers.bento_app:Classifier"]
_GUNICORN = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "2", "--timeout", "120"]

CONTENDERS = (
    *_both("fastapi", "FastAPI", _module("fastapi_app"), ("fastapi", "uvicorn")),
    *_both("litserve", "LitServe", _module("litserve_app"), ("litserve",), "octets"),
    *_both("bentoml", "BentoML", [*_BENTO, "--host", "127.0.0.1", "--port", "PORT"], ("bentoml",), "form"),
    *_both("ray", "Ray Serve", _module("ray_app"), ("ray",)),
    _peer(
        "flask",
        "Flask, as the article has it",
        _module("flask_app"),
        ("flask",),
        "eager",
        form="pixels",
        sees_sizes=False,
    ),
    _peer(
        "gunicorn",
        "the same under gunicorn, 2 workers",
        [*_GUNICORN, "benchmarks.serving.peers.flask_app:app"],
        ("flask", "gunicorn"),
        "eager",
        form="pixels",
        is_default=False,
        sees_sizes=False,
    ),
)
