"""Print a script that completes this command's verbs and options in a shell.

Example: marquee completion bash > ~/.local/share/bash-completion/completions/marquee

For zsh, source the output of marquee completion zsh in ~/.zshrc; for fish, write the output of marquee completion fish
to ~/.config/fish/completions/marquee.fish.
"""

import contextlib
import importlib
import io
import re
import sys
from typing import Annotated, Literal

import tyro

from marquee.commands.cli import parse_arguments
from marquee.commands.main import VERBS

_BASH = """\
_marquee() {
  local current=${COMP_WORDS[COMP_CWORD]} commands="" options="" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="VERBS"
  else
    case ${COMP_WORDS[1]} in
CASES
    esac
    # Without words the shell completes file names.
    case $current in -*) words=$options ;; *) [ "$COMP_CWORD" -eq 2 ] && words=$commands ;; esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}
complete -o default -F _marquee marquee
"""


def completion(shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]) -> None:
    """Prints the script.

    Args:
        shell: The shell.
    """
    words = {verb: (_commands_of(verb), _options_of(verb)) for verb in VERBS if verb != "completion"}
    if shell == "fish":
        for verb, entry in VERBS.items():
            print(f"complete -c marquee -n __fish_use_subcommand -f -a {verb} -d {entry.summary!r}")
        for verb, (commands, options) in words.items():
            for kind in (*(f"-f -a {name}" for name in commands), *(f"-l {name[2:]}" for name in options)):
                print(f"complete -c marquee -n '__fish_seen_subcommand_from {verb}' {kind}")
        return
    cases = "\n".join(
        f'      {verb}) commands="{" ".join(commands)}" options="{" ".join(options)}" ;;'
        for verb, (commands, options) in words.items()
    )
    script = _BASH.replace("VERBS", " ".join(VERBS)).replace("CASES", cases)
    print(f"autoload -U +X bashcompinit && bashcompinit\n{script}" if shell == "zsh" else script, end="")


def _commands_of(verb: str) -> list[str]:
    """The subcommands of a verb, such as ``start stop status`` of ``serve``; empty for a verb without."""
    match = re.search(r"^usage: \S.* \{([\w,-]+)\} \.\.\.$", _help(verb), re.MULTILINE)
    return match[1].split(",") if match else []


def _options_of(verb: str) -> list[str]:
    texts = [_help(verb), _help(verb, "all"), *(_help(verb, name, "--help") for name in _commands_of(verb))]
    options = {match for text in texts for match in re.findall(r"(?<![\w-])--[a-z][\w.-]*\w(?![\w.-])", text)}
    return sorted(option for option in options if not option.startswith("--no-"))


def _help(verb: str, *arguments: str) -> str:
    """What ``marquee VERB ... --help`` prints."""
    module = importlib.import_module(f"marquee.commands.{VERBS[verb].module}")
    help_arguments = arguments if "--help" in arguments else ("--help", *arguments)
    previous, output = sys.argv[1:], io.StringIO()
    sys.argv[1:] = help_arguments
    try:
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            module.main()
    finally:
        sys.argv[1:] = previous
    return output.getvalue()


def main() -> None:
    """Entry point."""
    parse_arguments("completion", completion, __doc__)
