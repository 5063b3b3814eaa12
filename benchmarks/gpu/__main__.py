"""Proves every GPU path of the project on this machine, in one command, within minutes.

Writes OUT/result.json and OUT/page.md, anew after each step, and OUT/logs.
Needs torch 2.9 or newer, numpy, Pillow, safetensors and timm; steps that want more are skipped where it is absent.
"""

import argparse
import sys
from datetime import datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
USAGE = 2


def main() -> int:
    """Entry point; see :func:`benchmarks.gpu.driver.run` for the exit code."""
    sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # from a checkout, without any installation
    from benchmarks import WORK
    from benchmarks.gpu.driver import Plan, run
    from benchmarks.gpu.plan import STEPS, named

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0; 1 where something is not right, failed, or had no time; 2: this command is wrong, or "
        "there is no CUDA device; 130: interrupted. Steps: " + ", ".join(step.name for step in STEPS),
    )
    parser.add_argument("--minutes", type=float, default=8.0, help="for all steps together (default: 8)")
    parser.add_argument("--out", type=Path, help="a new folder (default: one in .benchmarks, with the date)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: the same steps, small")
    parser.add_argument("--steps", nargs="+", default=[], metavar="NAME", help="only these")
    given = parser.parse_args()
    out: Path = given.out or WORK / f"gpu-{datetime.now():%Y%m%d-%H%M%S}"
    if not given.minutes > 0:
        parser.error(f"--minutes: expected more than 0, got {given.minutes:g}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"--out {out}: exists already; choose a new folder")
    try:
        steps = named(given.steps)
    except ValueError as error:
        parser.error(str(error))
    if given.device == "cuda" and (fault := _no_cuda()):
        parser.error(f"{fault}; with --device cpu the same steps run small")
    return run(Plan(steps=steps, device=given.device, minutes=given.minutes, out=out.absolute()))


def _no_cuda() -> str:
    """Why nothing can run on a GPU here; empty where it can. Asked in a child, so that this process stays small."""
    import subprocess

    code = "import sys, torch; sys.exit(0 if torch.cuda.is_available() else 3)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode == 3:
        return "PyTorch finds no CUDA device"
    return f"PyTorch cannot be used: {(done.stderr.strip().splitlines() or ['no message'])[-1]}"


if __name__ == "__main__":
    sys.exit(main())
