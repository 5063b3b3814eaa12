"""Looks into a ``.pt2`` before torch opens it, since torch runs what some of its entries hold.

A ``.pt2`` is a zip. Loading one unpickles example inputs, constants and weights that say so, and loads machine code,
where the file has them; none of these is in a program that this project exports. Only the entries of such a program are
allowed here, by name, and :mod:`.pt2_program` looks into the one that describes the graph. This keeps a file from
running code of its own. It is no sandbox: which operators a graph applies to an input is the model's business.

The layout is that of torch 2.14; files of releases that pickled the weights are refused.
"""

import json
import re
import struct
import zipfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import BundleError
from .pt2_program import check_program

_WEIGHTS, _CONSTANTS = "data/weights", "data/constants"
_CONFIGS = {_WEIGHTS: f"{_WEIGHTS}/model_weights_config.json", _CONSTANTS: f"{_CONSTANTS}/model_constants_config.json"}
_PROGRAM, _EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_REQUIRED = {_PROGRAM, _EXAMPLES, *_CONFIGS.values()}
_SMALL = {"archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id"}
_TENSORS = {_WEIGHTS: re.compile(r"weight_\d+"), _CONSTANTS: re.compile(r"tensor_\d+")}
_ITEM_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 9: 4, 10: 8, 11: 16, 12: 1, 13: 2, 28: 2, 34: 4, 35: 8}
"""torch's number of a type in these files (``torch._export.serde.schema.ScalarType``) -> bytes of one item."""
_MOST_SMALL = 1000
_VIEW_BYTES = 1 << 26
"""What a tensor may have at least, whatever its file has: some are one number that is repeated."""
_END, _LOCATOR, _RECORD = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL"), struct.Struct("<4sQ2H2L4Q")
"""The ends of a zip: of the directory, where the 64-bit one is, and the 64-bit one."""


def check_pt2(path: Path) -> None:
    """Refuses a ``.pt2`` with anything in it but a program's tensors and its graph of known operators.

    Raises:
        BundleError: the file is no such zip, or holds something else; the message names it.
    """
    try:
        with open(path, "rb") as stream, zipfile.ZipFile(stream) as archive:
            _check(archive, stream, path.stat().st_size)
    except _DamagedError as error:
        raise BundleError(f"{path}: torch.export cannot load it: {error.args[0]}") from error
    except (OSError, zipfile.BadZipFile, NotImplementedError, UnicodeDecodeError) as error:
        raise BundleError(f"{path}: torch.export cannot load it: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError) as error:
        reason = str(error) if type(error) is ValueError else f"its entries are not those of an export ({error!r:.100})"
        raise BundleError(
            f"{path}: is not opened, since no export of a model looks like this: {reason}; train or import the model "
            "again, or get the file from where it was made"
        ) from error


class _DamagedError(Exception):
    """The file is damaged, rather than strange."""


def _check(archive: zipfile.ZipFile, stream: BinaryIO, size: int) -> None:
    _check_end(stream, size, archive.start_dir)
    entries = archive.infolist()
    if not entries:
        raise _DamagedError("it is empty")
    # torch takes the first entry's folder for the archive's.
    root = entries[0].orig_filename.split("/")[0] + "/"
    sizes: dict[str, int] = {}
    for entry in entries:
        name = entry.orig_filename.removeprefix(root)
        if not entry.orig_filename.startswith(root) or name in sizes:
            raise ValueError(f"the entry {entry.orig_filename!r:.100} is there twice or outside of {root!r:.60}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size or entry.flag_bits & 1:
            raise ValueError(f"the entry {name!r:.100} is compressed or encrypted, as no export writes it")
        sizes[name] = entry.file_size
        _check_name(name, entry.file_size)
    if sum(sizes.values()) > size:
        raise ValueError(f"its entries have {sum(sizes.values())} bytes, which share places in a file of {size}")
    if missing := sorted(_REQUIRED - set(sizes)):
        raise ValueError(f"the entry {missing[0]!r} is missing")
    for folder, name in _CONFIGS.items():
        _check_tensors(json.loads(archive.read(root + name)), folder, sizes, size)
    check_program(json.loads(archive.read(root + _PROGRAM)))


def _check_end(stream: BinaryIO, size: int, directory: int) -> None:
    """Refuses a file in which torch's reader of zips could find another directory than Python's.

    Args:
        stream: the file.
        size: its length.
        directory: where Python has found the directory.

    Raises:
        ValueError: the directory is not where both look for it, at the end of the file without a comment.
    """
    end = size - _END.size
    stream.seek(max(0, end))
    tail = stream.read(_END.size)
    if len(tail) < _END.size:
        raise _DamagedError("it is not a zip")
    signature, *_, length, start, comment = _END.unpack(tail)
    stream.seek(max(0, end - _LOCATOR.size))
    locator = stream.read(_LOCATOR.size)
    last = end
    if locator[:4] == b"PK\x06\x07":
        last = end - _LOCATOR.size - _RECORD.size
        if last < 0 or _LOCATOR.unpack(locator)[2] != last:
            raise ValueError("the end of the zip is not as an export writes it")
        stream.seek(last)
        *_, length, start = _RECORD.unpack(stream.read(_RECORD.size))
    if signature != b"PK\x05\x06" or comment or start != directory or start + length != last:
        raise ValueError("the end of the zip is not as an export writes it")


def _check_name(name: str, size: int) -> None:
    """Refuses an entry that no export of this project writes."""
    if name == _EXAMPLES:
        if size:
            raise ValueError(f"the entry {name!r} holds example inputs, which torch unpickles")
        return
    folder, _, file = name.rpartition("/")
    if name in _REQUIRED or (folder in _TENSORS and _TENSORS[folder].fullmatch(file)):
        return
    if name not in _SMALL:
        raise ValueError(f"it has the entry {name!r:.100}, which no program of this project has")
    if size > _MOST_SMALL:
        raise ValueError(f"the entry {name!r} has {size} bytes")


def _check_tensors(document: Mapping[str, Any], folder: str, sizes: Mapping[str, int], size: int) -> None:
    """Refuses weights or constants that are pickled, or larger than the file that they come in.

    Args:
        document: says of each what it is.
        folder: of the entries with their numbers.
        sizes: bytes of each entry.
        size: of the whole file.
    """
    for name, payload in document["config"].items():
        entry = payload["path_name"]
        if payload["use_pickle"] is not False or not _TENSORS[folder].fullmatch(entry):
            raise ValueError(f"the tensor {name!r:.100} is pickled")
        meta = payload["tensor_meta"]
        items = prod(_whole(length) for length in meta["sizes"])
        most = max(size, _VIEW_BYTES) if sizes[f"{folder}/{entry}"] else 0  # torch makes zeros of what has no bytes
        if items * _ITEM_BYTES.get(meta["dtype"], 1) > most:
            raise ValueError(f"the tensor {name!r:.100} says that it has {items} items, more than the file can hold")


def _whole(length: Mapping[str, Any]) -> int:
    """A tensor's size in one direction."""
    (value,) = length.values()
    if set(length) != {"as_int"} or not isinstance(value, int) or value < 0:
        raise ValueError(f"a tensor has the size {value!r:.60}")
    return value
