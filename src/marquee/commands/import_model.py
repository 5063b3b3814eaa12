"""Import a model that was trained elsewhere: writes the same bundle as marquee train, to package, serve and evaluate.

Example: marquee import --model resnet50.safetensors --arch resnet50 --labels labels.txt
--images photos --out runs/resnet50
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.training.core.run_folder import RunFolder
from marquee.training.importing.config import ImportConfig

if TYPE_CHECKING:
    from marquee.handlers.inputs.image.spec import ImageSpec
    from marquee.training.importing.bundle import Imported

_MAX_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    out: Path
    """Folder of the run to write; it must be new."""
    config: Annotated[ImportConfig, tyro.conf.arg(name="")]
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


def _document(imported: "Imported", out: Path) -> dict[str, Any]:
    from marquee.handlers.outputs.classification import classification_of

    agreeing, labelled = imported.agreeing
    return {
        "bundle": str(RunFolder(out).bundle),
        "imported": imported.spec.provenance["imported"],
        "labels": len(classification_of(imported.spec).labels),
        "golden": len(imported.answers),
        "samples": len(imported.spec.samples),
        "agreeing": agreeing,
        "labelled": labelled,
        "answers": [
            {"path": record.path, "label": record.label, "answer": answer.label, "probability": answer.probability}
            for record, answer in imported.answers
        ],
        "left_out": [{"path": item.path, "reason": item.reason} for item in imported.rejected],
    }


def _print(imported: "Imported", out: Path) -> None:
    from marquee.handlers.inputs.image.spec import image_of
    from marquee.handlers.outputs.classification import classification_of

    spec, facts = imported.spec, imported.spec.provenance["imported"]
    source = " ".join(filter(None, (facts["format"], facts.get("architecture"))))
    print(f"{source} from {facts['file']} ({facts['library']}), {len(classification_of(spec).labels)} labels")
    print(_input(image_of(spec)))
    if "largest_difference" in facts:
        print(f"exported program equals the original within {facts['largest_difference']:.1g} in every probability")
    for record, answer in imported.answers[:_MAX_SHOWN]:
        truth = f" (its folder says {record.label})" if record.label not in ("", answer.label) else ""
        print(f"{_short(record.path)}: {answer.label} {answer.probability:.4f}{truth}")
    if len(imported.answers) > _MAX_SHOWN:
        print(f"... and {len(imported.answers) - _MAX_SHOWN} more")
    agreeing, labelled = imported.agreeing
    if labelled:
        print(f"{agreeing} of {labelled} golden samples get the label of their folder")
    for item in imported.rejected:
        print(f"left out: {_short(item.path)}: {item.reason}")
    command = hints.command("package", out, "--name", "NAME")
    print(f"{len(imported.answers)} golden samples, bundle in {RunFolder(out).bundle}; next: {command}")


def _short(path: str) -> str:
    """``path`` relative to the current folder, if it is in it."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path


def _input(image: "ImageSpec") -> str:
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (image.mean, image.std))
    return (
        f"short side to {image.resize} ({image.interpolation}), centre {image.crop} x {image.crop} x {image.channels}, "
        f"white 1, mean {mean}, std {std}"
    )


def main() -> None:
    """Entry point."""
    missing = Arguments(
        out=tyro.MISSING, config=ImportConfig(model=tyro.MISSING, labels=tyro.MISSING, images=tyro.MISSING)
    )
    arguments = parse_arguments("import", Arguments, __doc__, missing)
    with interruptible():
        from marquee.training.core.progress import Progress
        from marquee.training.importing.bundle import import_bundle
    imported = import_bundle(arguments.config, arguments.out, Progress())
    if arguments.json:
        print(json.dumps(_document(imported, arguments.out), ensure_ascii=False))
    else:
        _print(imported, arguments.out)
