"""Package a run's bundle as a model archive for TorchServe.

Example: marquee package runs/photos --name photos
"""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible

DEFAULT_STORE = Path("model_store")


def package_run(
    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    name: str,
    version: str = "1.0",
    store: Path = DEFAULT_STORE,
    variant: str = "auto",
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Writes STORE/NAME-VERSION.mar, and makes STORE/NAME.mar the same; other versions stay beside them.

    Args:
        run_folder: A run of marquee train, or a bundle.
        name: The model's name on the server.
        version: The model's version on the server.
        store: Folder of archives.
        variant: The only variant to serve; auto: the fastest that was measured and runs on the server.
        json: Print one JSON object.
    """
    with interruptible():
        from marquee.handlers.core.bundle import bundle_digest, sha256_file
        from marquee.serving.archive import find_bundle, package
        from marquee.serving.store import versioned
    name = name.removesuffix(".mar")
    bundle = find_bundle(run_folder)
    archive = package(bundle, name, version, store, variant)
    size, digest = archive.stat().st_size, sha256_file(archive)
    if json:
        document = {
            "archive": str(archive),
            "version": version,
            "bytes": size,
            "sha256": digest,
            "bundle": bundle_digest(bundle),
        }
        print(jsonlib.dumps(document))
        return
    store_option = () if store == DEFAULT_STORE else ("--store", store)
    print(f"{archive} ({size / 1e6:.1f} MB, sha256:{digest[:12]}), also as {versioned(archive, version).name}")
    print(f"bundle {bundle_digest(bundle)}; next: {hints.command('serve', 'start', name, *store_option)}")


def main() -> None:
    """Entry point."""
    parse_arguments("package", package_run, __doc__)
