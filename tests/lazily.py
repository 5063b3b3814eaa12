"""Libraries that one file of tests needs and that take seconds to import: not where every worker collects the tests."""

from importlib.util import find_spec
from typing import Any

import pytest


class Lazy:
    """Stands in for a module until something of it is used."""

    def __init__(self, name: str, version: str | None = None) -> None:
        self._name, self._version = name, version

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # of pytest, which looks at everything in a module that it collects
            raise AttributeError(attribute)
        return getattr(pytest.importorskip(self._name, self._version), attribute)


def lazily(name: str, version: str | None = None) -> Any:
    """As ``pytest.importorskip``, called when the module is first used; a file without its library is skipped now."""
    if find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name} is not installed", allow_module_level=True)
    return Lazy(name, version)
