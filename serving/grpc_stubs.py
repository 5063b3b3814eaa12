"""gRPC client code, generated from the .proto files of the installed TorchServe, so that it always fits its version."""

import functools
import importlib
import importlib.util
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from marquee.serving.errors import OperationError

_SERVICES = ("inference", "management")


class Stubs(NamedTuple):
    """Generated modules: messages and service stubs."""

    inference: ModuleType
    inference_grpc: ModuleType
    management: ModuleType
    management_grpc: ModuleType


@functools.cache
def load_stubs() -> Stubs:
    """Generates and imports the client modules, once per process.

    Raises:
        OperationError: TorchServe is not installed, or its .proto files do not compile.
    """
    from grpc_tools import protoc  # heavy, and only gRPC callers need it

    jar = _find("ts") / "frontend" / "model-server.jar"
    with tempfile.TemporaryDirectory(prefix="marquee-grpc-") as temporary:
        folder = Path(temporary)
        with zipfile.ZipFile(jar) as archive:
            archive.extractall(folder / "proto", [f"proto/{name}.proto" for name in _SERVICES])
        source = folder / "proto" / "proto"
        includes = [source, _find("grpc_tools") / "_proto", _find("google.rpc").parent.parent]
        arguments = ["protoc", *(f"-I{path}" for path in includes)]
        arguments += [f"--python_out={folder}", f"--grpc_python_out={folder}"]
        code = protoc.main(arguments + [str(source / f"{name}.proto") for name in _SERVICES])
        if code != 0:
            raise OperationError(f"the .proto files of {jar} do not compile (protoc exit code {code})")
        sys.path.insert(0, str(folder))
        try:
            names = [f"{name}_{suffix}" for name in _SERVICES for suffix in ("pb2", "pb2_grpc")]
            return Stubs(*(importlib.import_module(name) for name in names))
        finally:
            sys.path.remove(str(folder))


def _find(package: str) -> Path:
    """The folder of an installed package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise OperationError(f"the Python package {package} is not installed; pip install marquee")
    return Path(next(iter(spec.submodule_search_locations)))
