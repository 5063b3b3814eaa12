"""Import a model that was trained elsewhere: writes the same bundle as marquee train, to package, serve and evaluate.

Example: marquee import --model resnet50.safetensors --arch resnet50 --labels labels.txt
--images photos --out runs/resnet50

Example: marquee import --model model.skops --data table.csv --target price --out runs/price

The second is a scikit-learn model, which has options of its own: marquee import --model model.skops --help
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.training.core.run_folder import RunFolder
from marquee.training.importing.config import ImportConfig
from marquee.training.importing.scikit_config import PICKLES, SUFFIXES, TableImportConfig
from marquee.training.importing.scikit_file import check_suffix

if TYPE_CHECKING:
    from marquee.handlers.inputs.image.spec import ImageSpec
    from marquee.training.importing.bundle import Imported
    from marquee.training.importing.scikit import ImportedTable

_MAX_SHOWN = 10


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Arguments of this command."""

    out: Path
    """Folder of the run to write; it must be new."""
    config: Annotated[ImportConfig, tyro.conf.arg(name="")]
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class TableArguments:
    """Arguments of this command for a scikit-learn model."""

    out: Path
    """Folder of the run to write; it must be new."""
    config: Annotated[TableImportConfig, tyro.conf.arg(name="")]
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
        "warnings": list(imported.warnings),
    }


def _print(imported: "Imported", out: Path) -> None:
    from marquee.handlers.inputs.image.spec import image_of
    from marquee.handlers.outputs.classification import classification_of

    spec, facts = imported.spec, imported.spec.provenance["imported"]
    source = " ".join(filter(None, (facts["format"], facts.get("architecture"))))
    print(f"{source} from {facts['file']} ({facts['library']}), {len(classification_of(spec).labels)} labels")
    print(_input(image_of(spec), facts["channel_order"]))
    if "left_out" in facts:
        print(f"weights of the file that are not the network's: {_some(facts['left_out'])}")
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
    for warning in imported.warnings:
        print(f"warning: {warning}")
    command = hints.command("package", out, "--name", "NAME")
    print(f"{len(imported.answers)} golden samples, bundle in {RunFolder(out).bundle}; next: {command}")


def _short(path: str) -> str:
    """``path`` relative to the current folder, if it is in it."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else path


def _some(names: list[str]) -> str:
    return ", ".join(names[:_MAX_SHOWN]) + (f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else "")


def _input(image: "ImageSpec", order: str) -> str:
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (image.mean, image.std))
    size = f"centre {image.crop} x {image.crop} x {image.channels}"
    exchanged = ", given to the model as BGR" if order == "bgr" else ""
    return f"{image.resizing}, {size}, white 1, mean {mean}, std {std}{exchanged}"


def _table_document(imported: "ImportedTable", out: Path) -> dict[str, Any]:
    return {
        "bundle": str(RunFolder(out).bundle),
        "task": imported.spec.task,
        "imported": imported.spec.provenance["imported"],
        "metrics": imported.metrics,
        "samples": len(imported.spec.samples),
        "left_out": [{"path": item.path, "reason": item.reason} for item in imported.rejected],
    }


def _print_table(imported: "ImportedTable", out: Path) -> None:
    for line in _table_lines(imported):
        print(line)
    command = hints.command("package", out, "--name", "NAME")
    print(f"bundle in {RunFolder(out).bundle}; next: {command}")


def _table_lines(imported: "ImportedTable") -> Iterator[str]:
    from marquee.handlers.inputs.table.spec import table_of
    from marquee.training.core.task import task_for

    spec, facts = imported.spec, imported.spec.provenance["imported"]
    yield f"{facts['estimator']} from {facts['file']} ({facts['library']})"
    columns = ", ".join(f"{column.name} ({column.kind})" for column in table_of(spec).features)
    yield f"{spec.task} from {columns}"
    yield f"equals scikit-learn on all {facts['rows']} rows (largest difference {facts['largest_difference']:.1g})"
    yield task_for(spec).summary(imported.metrics)
    yield from (f"note: {note}" for note in facts["notes"])
    yield from (f"left out: {item.path}: {item.reason}" for item in imported.rejected[:_MAX_SHOWN])
    if len(imported.rejected) > _MAX_SHOWN:
        yield f"... and {len(imported.rejected) - _MAX_SHOWN} more rows are left out"


def _model() -> Path:
    """``--model`` on the command line, whose suffix decides what the other options are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model", type=Path, default=Path())
    try:
        namespace, _ = parser.parse_known_args()
    except argparse.ArgumentError:
        return Path()  # its value is missing, which the full parser will report
    model: Path = namespace.model
    return model


def _import_table() -> None:
    check_suffix(_model())  # before the options that the file would need
    missing = TableArguments(
        out=tyro.MISSING, config=TableImportConfig(model=tyro.MISSING, data=tyro.MISSING, target=tyro.MISSING)
    )
    arguments = parse_arguments("import", TableArguments, __doc__, missing)
    with interruptible():
        from marquee.training.core.progress import Progress
        from marquee.training.importing.scikit import import_table
    imported = import_table(arguments.config, arguments.out, Progress())
    if arguments.json:
        print(json.dumps(_table_document(imported, arguments.out), ensure_ascii=False))
    else:
        _print_table(imported, arguments.out)


def _import_images() -> None:
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


def main() -> None:
    """Entry point."""
    if _model().suffix.lower() in (*SUFFIXES, *PICKLES):
        _import_table()
    else:
        _import_images()
