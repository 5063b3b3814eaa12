"""A ``.pt2`` from elsewhere is looked into before torch opens it.

Every file here is a real export with one thing added that would make a folder, harmlessly, if torch were to run it; for
most of them the test shows that torch does.
"""

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from marquee.handlers.core.bundle import Bundle, sha256_file
from marquee.handlers.core.engines.exported import load_program
from marquee.handlers.core.errors import BundleError
from marquee.handlers.core.predictor import Predictor
from marquee.handlers.core.spec import GoldenSpec, ModelSpec, VariantSpec
from marquee.handlers.inputs.image.spec import ImageSpec
from marquee.handlers.outputs.classification import ClassificationSpec
from marquee.handlers.outputs.distance import Distance, read_distance, write_distance
from marquee.training.core.export import export_program
from tests.conftest import ROOT

IMAGE = ImageSpec(channels=1, resize=2, crop=2)
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"
PROGRAM, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
Entries = dict[str, bytes]
"""Name within the archive's folder -> content."""


class Small(nn.Module):
    """Weights, a buffer that is stored and one that is not, and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("scale", torch.ones(2))
        self.register_buffer("shift", torch.zeros(2), persistent=False)
        self.constant = torch.ones(3)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.linear(pixels.float().flatten(1)) * self.scale + self.shift + self.constant[:2]


class Involved(nn.Module):
    """What networks do beside layers: contexts, vmap, a branch, sizes that depend on the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        values = pixels.float().flatten(1)
        with torch.no_grad():
            values = values / values.amax().clamp(min=1)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            first = self.linear(values)
        second = torch.vmap(lambda row: row * 2 + 1)(first.float())
        third = torch.cond(second.sum() > 0, lambda x: x + 1, lambda x: x - 1, (second,))
        places = torch.arange(pixels.shape[0]) % (pixels.shape[0] // 2 + 1)
        wide = nn.functional.interpolate(third[None, None], scale_factor=1.5)
        return third + places[:, None] + wide.reshape(-1)[0]


class Makes:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return Path.mkdir, (self.folder,)


def read(path: Path) -> Entries:
    with zipfile.ZipFile(path) as archive:
        return {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}


def write(path: Path, entries: Entries, root: str = "model/", compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"{root}{name}", content)


def pickled(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def edit(entries: Entries, name: str, change: Callable[[dict], None]) -> Entries:
    document = json.loads(entries[name])
    change(document)
    return {**entries, name: json.dumps(document).encode()}


@pytest.fixture(scope="module")
def entries(tmp_path_factory) -> Entries:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    export_program(Small().eval(), IMAGE, path)
    return read(path)


def payload(document: dict, entry: str | None = None) -> dict:
    """The first tensor of a configuration, as pickled, in another entry if one is given."""
    first = next(iter(document["config"].values()))
    first["use_pickle"] = True
    if entry is not None:
        first.update(path_name=entry, tensor_meta=None)
    return first


def example_inputs(entries: Entries, made: Path) -> Entries:
    return {**entries, EXAMPLES: pickled((Makes(made),))}


def weight(entries: Entries, made: Path) -> Entries:
    return {**edit(entries, WEIGHTS, payload), "data/weights/weight_0": pickled(Makes(made))}


def constant(entries: Entries, made: Path) -> Entries:
    return {**edit(entries, CONSTANTS, payload), "data/constants/tensor_0": pickled(Makes(made))}


def object_of_python(entries: Entries, made: Path) -> Entries:
    import pickle

    changed = edit(entries, CONSTANTS, lambda document: payload(document, "opaque_obj_0"))
    return {**changed, "data/constants/opaque_obj_0": pickle.dumps(Makes(made))}


def weights_of_earlier_releases(entries: Entries, made: Path) -> Entries:
    return {**entries, "data/weights/model.pt": pickled({"linear.weight": Makes(made)})}


def constants_of_earlier_releases(entries: Entries, made: Path) -> Entries:
    return {**entries, "data/constants/model.pt": pickled({"constant": Makes(made)})}


def second_program(entries: Entries, made: Path) -> Entries:
    other = {name.replace("/model", "/other"): entries[name] for name in (PROGRAM, WEIGHTS, CONSTANTS)}
    return {**entries, **other, "data/sample_inputs/other.pt": pickled((Makes(made),))}


def expression(entries: Entries, made: Path) -> Entries:
    def change(document: dict) -> None:
        tensors = document["graph_module"]["graph"]["tensor_values"]
        code = f"__import__('os').mkdir({str(made)!r}) or 2"
        tensors["pixels"]["sizes"][0] = {"as_expr": {"expr_str": code, "hint": None}}

    return edit(entries, PROGRAM, change)


def name_of_an_input(entries: Entries, made: Path) -> Entries:
    """Names become source code: the default of an argument."""
    name = f"pixels=__import__('os').mkdir({str(made)!r})"
    return {**entries, PROGRAM: entries[PROGRAM].replace(b'"pixels"', json.dumps(name).encode())}


def container(entries: Entries, made: Path) -> Entries:
    """A container's keys can name a module, which is imported."""

    def change(document: dict) -> None:
        signature = document["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps([{"__enum__": True, "fqn": f"{made.parent.name}.side_effect:Kind", "name": "a"}])
        protocol, tree = json.loads(signature["in_spec"])
        tree["children_spec"][1]["context"] = context
        signature["in_spec"] = json.dumps([protocol, tree])

    return edit(entries, PROGRAM, change)


RUNS = [
    example_inputs,
    weight,
    constant,
    object_of_python,
    weights_of_earlier_releases,
    constants_of_earlier_releases,
    second_program,
    expression,
    name_of_an_input,
]
"""What torch runs when a file is loaded and its program called."""


def bundle(folder: Path) -> Path:
    """A bundle around ``folder/model.pt2``, with digests that fit: what is in the file is up to who made it."""
    variant = VariantSpec(
        name="fp32", engine="exported", precision="fp32", files={"model.pt2": sha256_file(folder / "model.pt2")}
    )
    spec = ModelSpec(
        schema_version=3,
        task="image-classification",
        input=IMAGE,
        output=ClassificationSpec(labels=("dark", "bright")),
        variants=(variant,),
        golden=GoldenSpec(),
    )
    Bundle(folder, spec).write()
    return folder


def run_by_torch(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.load(path).module()(torch.zeros(2, 2, 2, 1, dtype=torch.uint8))
        except Exception:
            return  # it is no program any more, once it has run


@pytest.mark.parametrize("change", RUNS, ids=lambda change: change.__name__)
def test_what_torch_would_run_is_refused(entries, tmp_path, change):
    made = tmp_path / "made"
    write(tmp_path / "model.pt2", change(entries, made))
    run_by_torch(tmp_path / "model.pt2")
    assert made.is_dir()
    made.rmdir()
    with pytest.raises(BundleError, match=r"model\.pt2: is not opened, since no export of a model looks like this: "):
        Predictor.load(bundle(tmp_path))
    assert not made.exists()


def test_a_module_is_not_imported(entries, tmp_path, monkeypatch):
    package = tmp_path / "elsewhere"
    package.mkdir()
    (package / "side_effect.py").write_text(f"import os\nos.mkdir({str(package / 'made')!r})\nKind = {{'a': 1}}\n")
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "model.pt2", container(entries, package / "made"))
    run_by_torch(tmp_path / "model.pt2")
    assert (package / "made").is_dir()
    with pytest.raises(BundleError, match="in a container with"):
        load_program(tmp_path / "model.pt2")


def test_the_layout_of_earlier_releases_is_refused(entries, tmp_path):
    made = tmp_path / "made"
    old = {"version": b"8.20", "serialized_exported_program.json": entries[PROGRAM]}
    old |= {f"serialized_{part}.pt": pickled({}) for part in ("state_dict", "constants")}
    old["serialized_example_inputs.pt"] = pickled((Makes(made),))
    write(tmp_path / "model.pt2", old, root="")
    run_by_torch(tmp_path / "model.pt2")
    assert made.is_dir()
    made.rmdir()
    with pytest.raises(BundleError, match="is not opened"):
        load_program(tmp_path / "model.pt2")
    assert not made.exists()


@pytest.mark.parametrize(
    "name",
    ["data/aotinductor/model/model.so", "extra/notes.txt", "data/weights/weight_0.pkl", "data/constants/custom_obj_0"],
)
def test_other_entries_are_refused_by_name(entries, tmp_path, name):
    write(tmp_path / "model.pt2", {**entries, name: b"0"})
    with pytest.raises(BundleError, match=f"it has the entry '{name}'"):
        load_program(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').mkdir('made') is None",
        "L['pixels'].numpy()",
        "torch.load('x')",
        "[1][0]",
        "eval('1')",
        "(lambda: 1)()",
        "9**9**9",
        "(",
    ],
)
def test_conditions_on_inputs_are_about_sizes(entries, tmp_path, text):
    changed = edit(entries, PROGRAM, lambda document: document.update(guards_code=["L['pixels'].size()[0] >= 2", text]))
    write(tmp_path / "model.pt2", changed)
    with pytest.raises(BundleError, match="an expression that is not about sizes"):
        load_program(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    "text",
    [
        "().__class__.__base__.__subclasses__()",
        "Integer.__call__(2)",
        "Pow(Integer(9), Pow(Integer(9), Integer(9)))",
        "Symbol('s0 + 1')",
        "L['pixels'].size()[0]",
        "Integer(9) ** Integer(99)",
        "(",
    ],
)
def test_expressions_are_about_sizes(entries, tmp_path, text):
    changed = entries[PROGRAM].replace(b"Symbol('s", b"!", 1)
    start, end = changed.index(b"!"), changed.index(b'"', changed.index(b"!"))
    write(tmp_path / "model.pt2", {**entries, PROGRAM: changed[:start] + text.encode() + changed[end:]})
    with pytest.raises(BundleError, match="an expression that is not about sizes"):
        load_program(tmp_path / "model.pt2")


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.ops.load_library",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.__class__.__init__",
        "torch.ops.higher_order.triton_kernel_wrapper_mutation",
        "_operator.call",
        "#aoti:anything",
    ],
)
def test_only_operators_are_called(entries, tmp_path, target):
    changed = entries[PROGRAM].replace(b"torch.ops.aten.linear.default", target.encode())
    write(tmp_path / "model.pt2", {**entries, PROGRAM: changed})
    with pytest.raises(BundleError, match="the graph calls"):
        load_program(tmp_path / "model.pt2")


class TestSize:
    def test_what_is_compressed_is_refused(self, entries, tmp_path):
        write(tmp_path / "model.pt2", entries, compression=zipfile.ZIP_DEFLATED)
        with pytest.raises(BundleError, match="is compressed or encrypted"):
            load_program(tmp_path / "model.pt2")

    @pytest.mark.parametrize("content", [b"", None], ids=["no bytes", "its bytes"])
    def test_a_tensor_is_not_larger_than_its_file(self, entries, tmp_path, content):
        """torch would make zeros of what has no bytes, or a view that repeats one number."""

        def change(document: dict) -> None:
            meta = document["config"]["linear.weight"]["tensor_meta"]
            meta["sizes"], meta["strides"] = [{"as_int": 1 << 30}, {"as_int": 4}], [{"as_int": 0}, {"as_int": 1}]

        changed = edit(entries, WEIGHTS, change)
        if content is not None:
            changed["data/weights/weight_0"] = content
        write(tmp_path / "model.pt2", changed)
        with pytest.raises(BundleError, match="'linear.weight' says that it has 4294967296 items"):
            load_program(tmp_path / "model.pt2")

    def test_entries_do_not_share_their_bytes(self, entries, tmp_path):
        path = tmp_path / "model.pt2"
        write(path, {**entries, "data/weights/weight_7": bytes(1 << 16), "data/weights/weight_8": bytes(1 << 16)})
        with zipfile.ZipFile(path) as archive:
            places = {entry.filename: entry.header_offset for entry in archive.infolist()}
        content = bytearray(path.read_bytes())
        where = content.rindex(b"model/data/weights/weight_8") - 4  # the offset comes before the name
        content[where : where + 4] = struct.pack("<L", places["model/data/weights/weight_7"])
        # Without the bytes of the last, that of the one before stands for both.
        cut, last = places["model/data/weights/weight_8"], content.index(b"PK\x01\x02")
        del content[cut:last]
        end = len(content) - 22
        content[end + 16 : end + 20] = struct.pack("<L", cut)
        path.write_bytes(content)
        with pytest.raises(BundleError, match=r"model\.pt2: "):
            load_program(path)

    def test_tables_of_distances_are_no_larger_either(self, tmp_path):
        write_distance(tmp_path / "distance.npz", Distance(np.eye(2), np.zeros((1, 2))))
        assert read_distance(tmp_path / "distance.npz").whitening.shape == (2, 2)
        np.savez_compressed(tmp_path / "distance.npz", whitening=np.zeros((300, 300)), means=np.zeros((1, 300)))
        with pytest.raises(BundleError, match=r"distance\.npz: not a table of distances: it is compressed"):
            read_distance(tmp_path / "distance.npz")

    def test_an_entry_is_there_once(self, entries, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
                for name, content in [*entries.items(), (EXAMPLES, b"")]:
                    archive.writestr(f"model/{name}", content)
        with pytest.raises(BundleError, match="is there twice"):
            load_program(tmp_path / "model.pt2")


@pytest.mark.parametrize("edge", ["before", "after", "comment"])
def test_there_is_one_directory_only(entries, tmp_path, edge):
    """Readers of zips look for the directory in ways of their own: where they could differ, the file is refused."""
    path = tmp_path / "model.pt2"
    write(path, entries)
    content = path.read_bytes()
    edited = {"before": b"more" + content, "after": content + b"more", "comment": content[:-2] + b"\x04\x00more"}
    path.write_bytes(edited[edge])
    with pytest.raises(BundleError, match=r"model\.pt2: "):
        load_program(path)


@pytest.mark.parametrize("content", [b"", b"damaged", b"PK\x05\x06" + bytes(18)], ids=["empty", "text", "empty zip"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "model.pt2").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.pt2: torch.export cannot load it: "):
        load_program(tmp_path / "model.pt2")


def test_a_tensor_may_repeat_its_numbers(tmp_path):
    class Repeats(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(1).expand(300, 200))

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return pixels.float().flatten(1)[:, :2] + self.table[0, :2]

    export_program(Repeats().eval(), IMAGE, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").stat().st_size < 300 * 200
    assert load_program(tmp_path / "model.pt2").state_dict["table"].shape == (300, 200)


@pytest.mark.parametrize("network", [Small, Involved])
def test_an_export_of_ours_is_opened(tmp_path, network):
    torch.manual_seed(0)
    model = network().eval()
    export_program(model, IMAGE, tmp_path / "model.pt2")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 2, 2, 1)).astype(np.uint8)
    found = load_program(tmp_path / "model.pt2").module()(torch.from_numpy(pixels))
    assert torch.allclose(found, model(torch.from_numpy(pixels)), atol=1e-5)


def test_no_other_place_opens_one():
    rooms = ("handlers", "training", "serving", "benchmarks", "scripts", "src/marquee/commands")
    files = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    callers = [path.relative_to(ROOT).as_posix() for path in files if "export.load(" in path.read_text("utf-8")]
    assert callers == ["handlers/core/engines/exported.py"]


def test_conditions_on_several_inputs_are_kept(tmp_path):
    """A table's numbers and codes have as many rows as each other: torch writes that as a line of Python."""

    class Two(nn.Module):
        def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return first + second.sum(1, keepdim=True)

    batch = torch.export.Dim("batch", min=1)
    example = (torch.zeros(2, 3), torch.zeros(2, 4))
    program = torch.export.export(Two(), example, dynamic_shapes=({0: batch}, {0: batch}))
    program._example_inputs = None
    torch.export.save(program, tmp_path / "model.pt2")
    conditions = json.loads(read(tmp_path / "model.pt2")[PROGRAM])["guards_code"]
    loaded = load_program(tmp_path / "model.pt2")
    assert loaded._guards_code == conditions
    assert loaded.module()(torch.ones(5, 3), torch.ones(5, 4)).shape == (5, 3)
