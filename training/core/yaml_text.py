"""Reads and writes YAML with the numbers of YAML 1.2: ``1e-3`` is one, and ``010`` is ten.

PyYAML follows YAML 1.1, in which ``1e-3`` and ``1e5`` are texts, ``010`` is eight and ``1:30`` is ninety. Words such as
``yes`` and ``off`` keep the meaning that they have there.
"""

import functools
import re
from pathlib import Path
from typing import Any

from marquee.training.core.errors import TrainingError

_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"[-+]?(?:0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)$")
_FLOAT_TAG, _INT_TAG = "tag:yaml.org,2002:float", "tag:yaml.org,2002:int"


def read_yaml(path: Path) -> Any:
    """The document in a YAML or JSON file.

    Raises:
        TrainingError: the file cannot be read, or is no YAML.
    """
    import yaml  # imported late: every command line needs the configuration's classes, but few read a file

    try:
        return yaml.load(Path(path).read_text("utf-8"), _loader())  # noqa: S506 - a subclass of SafeLoader
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"{path}: not readable as YAML: {error}") from error


def dump_yaml(value: Any) -> str:
    """YAML text that :func:`read_yaml` reads back as an equal value; members keep their order."""
    import yaml

    return str(yaml.dump(value, Dumper=_dumper(), sort_keys=False))


@functools.cache
def _loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """As PyYAML's, but for numbers."""

    def construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
        text = str(loader.construct_scalar(node)).replace("_", "")
        return int(text, 0 if re.match("[-+]?0[box]", text) else 10)

    numbers = (_FLOAT_TAG, _INT_TAG)
    Loader.yaml_implicit_resolvers = {
        first: [pair for pair in pairs if pair[0] not in numbers]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    Loader.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
    Loader.add_constructor(_INT_TAG, construct_int)
    return Loader


@functools.cache
def _dumper() -> Any:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Puts quotes around texts that the loader would take for numbers."""

    Dumper.add_implicit_resolver(_FLOAT_TAG, _FLOAT, list("-+0123456789."))
    Dumper.add_implicit_resolver(_INT_TAG, _INT, list("-+0123456789"))
    return Dumper
