"""Memory limits as containers have them."""

from pathlib import Path

import pytest

from marquee.training.tools.memory import available_bytes, cgroup_available_bytes, peak_bytes


def group(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def own(tmp_path: Path, line: str) -> Path:
    (tmp_path / "cgroup").write_text(f"1:cpu:/elsewhere\n{line}\n")
    return tmp_path / "cgroup"


def test_the_tightest_level_of_cgroup_v2_counts(tmp_path):
    root = tmp_path / "fs"
    group(root / "job", memory__max=1000, memory__current=700, memory__stat="anon 300\ninactive_file 200")
    group(root / "job" / "step", memory__max="max", memory__current=650, memory__stat="inactive_file 0")
    assert cgroup_available_bytes(root, own(tmp_path, "0::/job/step")) == 1000 - 700 + 200


def test_cgroup_v1_in_a_container_has_its_limit_at_the_root(tmp_path):
    root = tmp_path / "fs"
    stat = "inactive_file 1\ntotal_inactive_file 50"
    group(root / "memory", memory__limit_in_bytes=900, memory__usage_in_bytes=400, memory__stat=stat)
    assert cgroup_available_bytes(root, own(tmp_path, "4:memory:/docker/0123")) == 900 - 400 + 50


def test_without_a_limit_the_machine_decides(tmp_path):
    group(tmp_path / "fs", memory__max="max", memory__current=1, memory__stat="inactive_file 0")
    assert cgroup_available_bytes(tmp_path / "fs", own(tmp_path, "0::/")) is None
    assert cgroup_available_bytes(tmp_path / "fs", tmp_path / "no such file") is None
    assert 0 < available_bytes() < 2**60


@pytest.mark.slow
def test_the_peak_stays_when_the_memory_is_given_back():
    before = peak_bytes()
    assert before > 2**20
    block = bytearray(before + 2**26)  # larger than anything before
    assert peak_bytes() > before + 2**25
    del block
    assert peak_bytes() > before + 2**25
