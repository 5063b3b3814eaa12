"""Package a run's bundle as a model archive for TorchServe.

Example: python scripts/package.py runs/photos --name photos
"""

import json as jsonlib
import shlex
from pathlib import Path
from typing import Annotated

import tyro
from _cli import run

from handlers.spec import bundle_digest, sha256_file
from serving.archive import find_bundle, package

DEFAULT_STORE = Path("model_store")


def package_run(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="RUN")],
    name: str,
    version: str = "1.0",
    store: Path = DEFAULT_STORE,
    variant: str = "auto",
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Writes STORE/NAME.mar.

    Args:
        run_folder: A run of train.py, or a bundle.
        name: The model's name on the server.
        version: The model's version on the server.
        store: Folder of archives.
        variant: The only variant to serve; auto: the fastest that was measured and runs on the server.
        json: Print one JSON object.
    """
    bundle = find_bundle(run_folder)
    archive = package(bundle, name, version, store, variant)
    size, digest = archive.stat().st_size, sha256_file(archive)
    if json:
        document = {"archive": str(archive), "bytes": size, "sha256": digest, "bundle": bundle_digest(bundle)}
        print(jsonlib.dumps(document))
        return
    where = "" if store == DEFAULT_STORE else f" --store {shlex.quote(str(store))}"
    print(f"{archive} ({size / 1e6:.1f} MB, sha256:{digest[:12]})")
    print(f"bundle {bundle_digest(bundle)}; next: python scripts/serve.py start {name}{where}")


def main() -> None:
    """Entry point."""
    tyro.cli(package_run, description=__doc__)


if __name__ == "__main__":
    run(main)
