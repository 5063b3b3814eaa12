"""A bundle's program as AOTInductor compiles it: no engine of the project, but what one would gain."""

import time

import torch

from benchmarks.gpu.step import Report, Site
from benchmarks.gpu.steps.speeds import Engine
from marquee.handlers.core.arrays import Arrays
from marquee.handlers.core.bundle import Bundle
from marquee.handlers.core.engines.exported import load_program
from marquee.handlers.core.predictor import Predictor
from marquee.training.core.device import resolve_device


def ahead_of_time(
    site: Site, report: Report, bundle: Bundle, first: Predictor, inputs: Arrays, expected: Arrays
) -> Engine:
    """Compiles the program of the first variant, and tells of its answers.

    Args:
        site: where.
        report: takes the rows.
        bundle: with the program.
        first: the first variant, on the CPU.
        inputs: test images, as an engine takes them.
        expected: what the first variant gives for them.

    Returns:
        What runs it.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch.export.passes import move_to_device_pass

    program, started = load_program(bundle.program(bundle.spec.variants[0])), time.monotonic()
    device = str(resolve_device(site.device))
    if site.full:
        program = move_to_device_pass(program, device)
    # Bundles do not hold the inputs that a program was traced with.
    example = (torch.from_numpy(values).to(device) for values in bundle.spec.input.example(2).values())
    program.example_inputs = (tuple(example), {})
    package = aoti_compile_and_package(program, package_path=str(site.work / "aot.pt2"))
    report.row("aot-inductor: compiling", time.monotonic() - started, "s", note="once; a worker loads the result")
    started = time.monotonic()
    compiled = aoti_load_package(package)
    report.row("aot-inductor: loading", time.monotonic() - started, "s")
    names = bundle.spec.variants[0].outputs

    @torch.inference_mode()
    def call(inputs: Arrays) -> Arrays:
        tensors = [torch.from_numpy(values).to(device) for values in inputs.values()]
        result = compiled(*tensors)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        return {name: tensor.float().cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}

    output, tolerance = first.output, bundle.spec.variants[0].tolerance
    largest = float(output.differences(output.read(call(inputs)), expected).max())
    report.row(
        "aot-inductor: largest difference of a probability",
        largest,
        right=largest <= tolerance,
        wanted=f"at most {tolerance:g}",
    )
    return call
