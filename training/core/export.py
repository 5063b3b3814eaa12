"""Exports a trained network as a bundle: a folder with all that a server needs, checked against the network."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from marquee.handlers.core.arrays import Arrays, concatenate
from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines import load_engine
from marquee.handlers.core.golden import replay
from marquee.handlers.core.input import InputSpec
from marquee.handlers.core.precision import widened
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import SCHEMA_VERSION, GoldenSpec, ModelSpec, VariantSpec
from marquee.training.core.config import RunConfig
from marquee.training.core.context import RunContext
from marquee.training.core.errors import ExportError
from marquee.training.core.evaluation import predict_outputs
from marquee.training.core.files import atomic_folder
from marquee.training.core.golden_writer import MAX_GOLDEN, write_golden
from marquee.training.core.progress import Progress
from marquee.training.core.sampler import resolve_workers
from marquee.training.core.task import Network, Program, task_of

MODEL_FILE = "model.pt2"
CHECKED_ITEMS = 64
"""Number of real inputs on which the exported program is compared with the eager network."""


def export_bundle(
    config: RunConfig, manifest: Any, network: Network, provenance: dict[str, Any], context: RunContext
) -> dict[str, Any]:
    """Writes the run's bundle; if anything fails, an earlier bundle stays in place.

    The measured split is ``test``, or ``val`` where it has no items.

    Args:
        config: the run's configuration.
        manifest: the run's manifest.
        network: the trained network, on any device; it is left on the CPU in eval mode.
        provenance: facts for ``spec.json``; metrics are added.
        context: the run's folder and progress.

    Returns:
        The metrics of the bundle on the measured split, with ``split``.

    Raises:
        ExportError: the exported program or a golden answer differs from the trained network.
    """
    task, folder, progress = task_of(config), context.folder, context.progress
    widen(network.model.cpu()).eval()
    measured = "test" if manifest.split("test") else "val"
    records, validation = manifest.split(measured), manifest.split("val")
    workers = resolve_workers(config.loop.workers, len(manifest.split("train")))
    with atomic_folder(folder.bundle) as staging:
        program = task.program(config, manifest, network, staging, progress)
        variant = write_program(program, network.input, staging)
        draft = Bundle(
            staging,
            ModelSpec(
                schema_version=SCHEMA_VERSION,
                task=task.name,
                input=network.input,
                output=task.output(config, manifest),
                variants=(variant,),
                golden=GoldenSpec(),
            ),
        )
        engine = load_engine(draft, variant, "cpu")
        uncalibrated = Predictor(draft, variant, engine)
        compare_with_eager(
            program.module, uncalibrated, concatenate(list(task.batches(draft.spec, records[:CHECKED_ITEMS], 0)))
        )
        fitted = task.calibrate(
            config,
            uncalibrated.output,
            predict_outputs(uncalibrated, validation, workers, progress),
            task.targets(draft.spec, validation),
        )
        calibrated = draft.with_spec(
            replace(draft.spec, output=replace(draft.spec.output, calibration=fitted.calibration))  # type: ignore[type-var]
        )
        predictor = Predictor(calibrated, variant, engine)
        outputs = predict_outputs(predictor, records, workers, progress)
        metrics = {
            "split": measured,
            **task.measure(predictor.output, records, outputs),
            "calibration": fitted.facts,
        }
        task.note_export(config, metrics)
        golden = task.choose_golden(manifest, measured, config.export.golden)[:MAX_GOLDEN]
        numbers = {name: value for name, value in metrics.items() if name not in task.tables}
        spec = replace(
            calibrated.spec,
            golden=write_golden(calibrated, task, golden, answers_for(predictor, golden)),
            provenance={**provenance, "metrics": numbers},
        )
        written = calibrated.with_spec(spec).write()
        written.verify()
        if differences := replay(Predictor(written, written.spec.variants[0], engine)):
            raise ExportError(f"{folder.bundle}: the written bundle differs from its own evaluation: {differences[0]}")
    # Outside the bundle's folder, so written after it: if the bundle cannot be put in place, the old predictions stay.
    task.write_predictions(folder.predictions, predictor.output, records, outputs)
    return metrics


def widen(model: nn.Module) -> nn.Module:
    """The same module, with tensors of half precision in float32."""
    applied: nn.Module = model._apply(widened)  # type: ignore[no-untyped-call]
    return applied


def answers_for(predictor: Predictor, records: Sequence[Any]) -> list[Any]:
    """The predictor's answers for ``records``, as in an evaluation."""
    outputs = predict_outputs(predictor, records, 0, Progress(quiet=True))
    answers: list[Any] = predictor.output.predictions(outputs)
    return answers


def write_program(program: Program, source: InputSpec, folder: Path) -> VariantSpec:
    """Writes the bundle's first variant, which has the name of its precision."""
    export_program(program.module, source, folder / MODEL_FILE)
    return VariantSpec(
        name=program.precision,
        engine="exported",
        precision=program.precision,
        tolerance=program.tolerance,
        files={name: sha256_file(folder / name) for name in (MODEL_FILE, *program.files)},
        outputs=program.outputs,
    )


def export_program(module: nn.Module, source: InputSpec, path: Path) -> None:
    """Writes ``module`` as a ``.pt2``, for any number of items, at least 1."""
    program = trace_program(module, source)
    # The example inputs would be stored as the only pickle in the file. The attribute is private; a test checks this.
    program._example_inputs = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        torch.export.save(program, path)


def trace_program(module: nn.Module, source: InputSpec) -> torch.export.ExportedProgram:
    """``module`` as a program for any number of items, at least 1."""
    # Two items: torch.export treats a batch size of 1 as a constant.
    example = tuple(torch.from_numpy(values) for values in source.example(2).values())
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecations inside torch itself
        return torch.export.export(module, example, dynamic_shapes=tuple({0: batch} for _ in example))


def compare_with_eager(module: nn.Module, predictor: Predictor, inputs: Arrays) -> float:
    """The largest difference in a served number between an exported program and the module that it was made from.

    Args:
        module: in eval mode, on the CPU.
        predictor: the predictor with the exported program.
        inputs: real inputs.

    Raises:
        ExportError: it exceeds the variant's tolerance.
    """
    with torch.inference_mode():
        result = module(*(torch.from_numpy(values) for values in inputs.values()))
    tensors = result if isinstance(result, (tuple, list)) else (result,)
    names = predictor.variant.outputs
    eager = predictor.output.read({name: widened(tensor).numpy() for name, tensor in zip(names, tensors, strict=True)})
    difference = float(predictor.output.differences(eager, predictor.outputs(inputs)).max())
    if not difference <= predictor.variant.tolerance:
        raise ExportError(
            f"the exported program differs from the trained model by {difference:.2g} in an answer "
            f"(tolerance {predictor.variant.tolerance:.2g}); this architecture cannot be served as exported"
        )
    return difference
