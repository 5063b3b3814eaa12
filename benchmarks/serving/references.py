"""The answers that contenders must give: the same models, asked in this process."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.serving.bodies import Size, write_bodies
from benchmarks.serving.contenders.base import Site
from benchmarks.serving.peers.eager import Eager
from benchmarks.serving.peers.ours import Ours
from benchmarks.serving.servers import likeliest


def find_labels(references: Iterable[str], site: Site, sizes: Sequence[Size]) -> dict[str, dict[Path, str]]:
    """Reference (``eager``, or a variant) -> the first photograph of each size -> its label."""
    photographs = [write_bodies(site.work, size, "file")[0] for size in sizes]
    data = [photograph.read_bytes() for photograph in photographs]
    found = {}
    for name in references:
        model = Eager(site.material) if name == "eager" else Ours(site.material, name)
        answers = map(likeliest, model.answer(data))
        found[name] = dict(zip(photographs, answers, strict=True))
    return found
