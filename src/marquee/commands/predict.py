"""Send images or rows of a table to the running server, or ask for an explanation of one answer.

Example: marquee predict photos cat.jpg dog.png --grpc
Example: marquee predict photos holidays/ 'scans/*.tif' --out answers.csv
Example: find . -name '*.jpg' -newer last | marquee predict photos - --json
Example: marquee predict houses new.csv --out prices.csv
Example: marquee predict photos cat.jpg --explain reason.png --method occlusion
Example: marquee predict houses one.json --explain reason.json
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import tyro

from marquee import hints
from marquee.commands.cli import parse_arguments
from marquee.commands.main import interruptible
from marquee.commands.predict_explanation import Method, explain_usage_error, show_explanation
from marquee.commands.predict_lines import CSV_SUFFIXES, JSON_SUFFIXES, CsvLines, JsonLines, TextLines
from marquee.commands.predict_sources import Source, Sources, find_sources
from marquee.commands.predict_table import Limits, predict_table
from marquee.commands.table_file import SUFFIXES, is_table
from marquee.serving.defaults import DEFAULT_CONFIG, DEFAULT_STATE
from marquee.serving.errors import OperationError

if TYPE_CHECKING:
    from marquee.commands.predict_many import Ask
    from marquee.serving.client import Answer, Client

Files = Annotated[
    # Not list[Path]: tyro would check its value with a library that takes 0.1 seconds to import.
    list,
    tyro.conf.Positional,
    tyro.constructors.PrimitiveConstructorSpec[list[Path]](
        nargs="*",
        metavar="FILE",
        instance_from_str=lambda texts: [Path(text) for text in texts],
        is_instance=lambda value: isinstance(value, list),
        str_from_instance=lambda files: [str(file) for file in files],
    ),
]
MOST_IN_FLIGHT = 256
_BYTES = "application/octet-stream"


def predict(
    name: Annotated[str, tyro.conf.Positional],
    files: Files,  # type: ignore[type-arg]
    version: Optional[str] = None,
    grpc: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    csv: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    out: Optional[Path] = None,
    in_flight: int = 8,
    explain: Optional[Path] = None,
    method: Method = "auto",
    label: Optional[str] = None,
    state: Path = DEFAULT_STATE,
    config: Path = DEFAULT_CONFIG,
) -> int:
    """Prints one line per file; exits with 1 if any failed, after all others were sent.

    Args:
        name: The model's name on the server.
        files: Image files, folders with images, quoted patterns ('*.jpg', with ** for subfolders), @FILE for a list of
            files, or - for an image or such a list on standard input; or rows of a table (.csv, .tsv, .parquet,
            .jsonl), which are answered as CSV; a .json file is sent as a JSON body.
        version: The model's version; the default version when omitted.
        grpc: Use gRPC instead of REST.
        json: Print one JSON object per file, with the complete answer.
        csv: Print CSV, with a line per image.
        out: File to write, of images .csv or .jsonl (as --csv and --json print them), of one file of rows its CSV.
        in_flight: How many images are under way at once.
        explain: File to write: of an image a .png, a heat map of the evidence for and against the label; of a row a
            .json, the contribution of each column. For one file only.
        method: Method of the explanation; auto: for images Grad-CAM where the model has a last feature map, else
            occlusion; for rows Shapley values.
        label: The label to explain; the predicted one when omitted.
        state: State folder of marquee serve start.
        config: TorchServe settings with the addresses of a server that marquee serve did not start.
    """
    if not files:
        print(f"error: no files named; example: {hints.command('predict', name, 'cat.jpg')}", file=sys.stderr)
        return 2
    usage_error = explain_usage_error(explain, method, label) or _output_usage_error(json, csv, in_flight)
    if out is not None and explain is not None:
        usage_error = f"--out {out}: an explanation is written to --explain {explain}; leave out --out"
    if usage_error:
        print(f"error: {usage_error}", file=sys.stderr)
        return 2
    with interruptible():
        from marquee.serving.server import connect

        sources = find_sources(files)
    if usage_error := _source_usage_error(sources.all, explain, json, out):
        print(f"error: {usage_error}", file=sys.stderr)
        return 2
    client = connect(state, config)
    if explain is not None:
        return show_explanation(
            sources.all[0], partial(_explanation, client, name, version, grpc, method, label), explain, json
        )
    ask = partial(_ask, client, name, version, grpc)
    failed = 0
    if tables := [source for source in sources.all if is_table(source.path) and not json]:
        limits = _limits(client, name, version)
        failed = sum(predict_table(source.path, ask, out, limits) for source in tables)
    if images := [source for source in sources.all if not is_table(source.path) or json]:
        failed += _send(replace(sources, all=images), ask, _form(json, csv, out), out, in_flight)
    return 1 if failed else 0


def _limits(client: "Client", name: str, version: str | None) -> Limits:
    """How much a request may hold; the usual where the management API does not tell, such as for want of a token."""
    try:
        described = client.describe(name, version, customized=True)
        return Limits.of(described[0].get("customizedMetadata"))
    except (OperationError, ValueError, TypeError, LookupError, AttributeError):
        return Limits()


def _output_usage_error(json: bool, csv: bool, in_flight: int) -> str | None:
    """What is wrong with the arguments about answers, or None."""
    if json and csv:
        return "--json and --csv: expected one of them"
    return None if 1 <= in_flight <= MOST_IN_FLIGHT else f"--in-flight {in_flight}: expected 1 to {MOST_IN_FLIGHT}"


def _source_usage_error(sources: Sequence[Source], explain: Path | None, json: bool, out: Path | None) -> str | None:
    """What is wrong with what is to be sent, or with the file for its answers; or None."""
    if explain is not None and len(sources) != 1:
        return f"--explain explains the answer to one file, and {len(sources)} are named; run it once per file"
    if out is None:
        return None
    if any(is_table(source.path) for source in sources) and not json:
        tables = f"for one file of rows ({', '.join(SUFFIXES)})"
        return None if len(sources) == 1 else f"--out {out}: {tables}, or for images"
    if _form(json, False, out) is None:
        expected = ", ".join((*CSV_SUFFIXES, *JSON_SUFFIXES))
        return f"--out {out}: expected a file for the answers to images that ends with one of {expected}"
    return None


def _form(json: bool, csv: bool, out: Path | None) -> "type[CsvLines] | type[JsonLines] | None":
    """How answers are written; None: as text, or of a file that its name does not say."""
    suffix = "" if out is None else out.suffix.lower()
    if csv or suffix in CSV_SUFFIXES:
        return CsvLines
    return JsonLines if json or suffix in JSON_SUFFIXES else None


def _send(
    sources: Sources, ask: "Ask", form: "type[CsvLines] | type[JsonLines] | None", out: Path | None, in_flight: int
) -> int:
    """Sends images and writes their answers; returns how many failed."""
    from marquee.commands.predict_many import predict_many, written

    # On a terminal, the lines themselves show how far it is.
    is_shown = out is not None or not sys.stdout.isatty()
    with nullcontext(sys.stdout) if out is None else written(out) as stream:
        failures = predict_many(sources.all, ask, TextLines() if form is None else form(stream), in_flight, is_shown)
    if sources.left_out:
        print(f"left out, since they are not named as images: {sources.left_out} files", file=sys.stderr)
    if failures.total and (len(sources.all) > 1 or out is not None):
        print(failures.summary(len(sources.all)), file=sys.stderr)
    if out is not None:
        print(f"{out}: {len(sources.all) - failures.total} answers")
    return failures.total


def _ask(
    client: "Client", name: str, version: str | None, grpc: bool, data: bytes, content_type: str = _BYTES
) -> "Answer":
    if grpc:
        return client.predict_grpc(name, data, version)
    return client.predict(name, data, content_type, version)


def _explanation(
    client: "Client", name: str, version: str | None, grpc: bool, method: Method, label: str | None, data: bytes
) -> "Answer":
    return client.explain(name, data, method, label, version, grpc)


def main() -> int:
    """Entry point."""
    return parse_arguments("predict", predict, __doc__)
