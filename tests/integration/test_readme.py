"""The pages name what exists, and a shell runs README's commands in their order."""

import re
import shutil
from collections.abc import Iterator
from functools import partial

import pytest

from marquee.commands.main import VERBS
from marquee.hints import SCRIPTS
from tests.conftest import ROOT
from tests.pages import run_commands

README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
TABLES = ("tabular-regression", "tabular-classification")
WITH_SUBCOMMANDS = {"serve", "models", "keys"}
# Of torchserve, torchrun, pytest, curl and the benchmarks, where the text names them without their program.
FOREIGN_FLAGS = {
    *("--models", "--ncs", "--ts-config", "--extra-files", "--max-restarts", "--rdzv-conf", "--quick", "--long"),
    *("--data-binary", "--noproxy"),
}


def shell_lines(page: str) -> Iterator[str]:
    """What a page gives to type: the lines of its shell blocks, and what it writes as code within the text."""
    for block in re.findall(r"```sh\n(.*?)```", page, re.S):
        yield from (re.sub(r"\s#.*", "", line) for line in block.replace("\\\n", " ").splitlines())
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.S))


def commands(page: str) -> Iterator[tuple[str, str, list[str]]]:
    """Verb, subcommand or nothing, and flags of each ``marquee`` command of a page."""
    for line in shell_lines(page):
        if command := re.search(r"(?<!\S)marquee ([a-z][\w-]*)(.*)", line):
            verb, words = command[1], command[2].split()
            subcommand = words[0] if verb in WITH_SUBCOMMANDS and words and words[0].isalpha() else ""
            yield verb, subcommand, [word.partition("=")[0] for word in words if word.startswith("--")]


def anchors(page: str) -> set[str]:
    """The fragments that a page's headings have on GitHub."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_command_is_run_or_says_why_not():
    blocks = re.findall(r"(.*)\n```sh\n", README)
    assert len(blocks) >= 5
    for marker in blocks:
        assert re.fullmatch(r"<!-- run -->|<!-- not run: .+ -->", marker), marker


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_links_lead_somewhere():
    offenders = []
    for name, page in PAGES.items():
        for target, fragment in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", page):
            file = ((ROOT / name).parent / target) if target else ROOT / name
            if "://" not in target and not (file.exists() and (not fragment or fragment in anchors(file.read_text()))):
                offenders.append(f"{name}: {target}#{fragment}")
    assert offenders == []


def test_files_that_are_named_exist():
    folders = "benchmarks|docs|handlers|recipes|scripts|serving|src|tests|training"
    offenders = [
        f"{name}: {file}"
        for name, page in PAGES.items()
        for file in re.findall(rf"(?<![\w/.-])(?:{folders})/[\w./-]*\w", page)
        if not (ROOT / file).exists()
    ]
    assert offenders == []


def test_the_layout_names_what_exists():
    layout = re.search(r"## Layout.*?```\n(.*?)```", PAGES["docs/architecture.md"], re.S)
    assert layout is not None
    room, offenders = "", []
    for line in layout[1].splitlines():
        names = re.findall(r"[\w.-]+/?", re.split(r"  |:", line.strip())[0])
        if line and not line.startswith(" "):
            room = names[0] if len(names) == 1 else "".join(names)
            names = [""]
        if line.startswith("   "):
            continue  # the rest of a description
        offenders += [f"{room}{name}" for name in names if not (ROOT / room / name).exists()]
    assert offenders == []


def test_commands_and_flags_that_are_named_exist(script):
    help_of: dict[tuple[str, str], str] = {}
    offenders = []
    for name, page in PAGES.items():
        for verb, subcommand, flags in commands(page):
            if verb not in VERBS:
                offenders.append(f"{name}: marquee {verb}")
                continue
            if (verb, subcommand) not in help_of:
                ask = partial(script, SCRIPTS.get(verb, verb), *filter(None, [subcommand]), "--help", COLUMNS="200")
                help_of[verb, subcommand] = text = ask().stdout
                if "--help all" in text:  # a run's whole configuration, which differs between tasks
                    help_of[verb, subcommand] += ask("all").stdout
                    help_of[verb, subcommand] += "".join(ask("all", "--task", task).stdout for task in TABLES)
                if verb == "import":
                    help_of[verb, subcommand] += ask("--model", "model.skops").stdout
            known = set(re.findall(r"--[\w.-]+", help_of[verb, subcommand]))
            offenders += [f"{name}: marquee {verb} {subcommand} {flag}" for flag in {"--help", *flags} - known]
    known = {flag for text in help_of.values() for flag in re.findall(r"--[\w.-]+", text)}
    for name, page in PAGES.items():
        named = {line.split()[0].partition("=")[0] for line in shell_lines(page) if line.startswith("--")}
        offenders += [f"{name}: {flag}" for flag in named - known - FOREIGN_FLAGS if not flag.endswith("*")]
    assert offenders == []
    assert len(help_of) > 12


@pytest.mark.slow
def test_the_commands_work(tmp_path, digits):
    """In a folder that holds no more than the demo's data and the configuration of the server."""
    folder, programs = tmp_path / "my project", tmp_path / "bin"  # with a space, as folders have
    shutil.copytree(digits, folder / ".demo" / "data")
    programs.mkdir()
    # The accuracy is the demo's matter, so the network is as small as the demo's.
    smaller = "--config quick --model.arch cnn4_w8 --loop.epochs 4 --loop.batch-size 32 --optimizer.lr 1e-2"
    assert "--config quick" in README
    text = run_commands(README.replace("--config quick", f"{smaller} --augment.color 0"), folder, programs)
    assert text.count('"label": "7"') >= 3
    assert re.search(r"test accuracy 0\.[89]", text), text
    assert "32 golden answers equal" in text
    assert "stopped pid" in text
