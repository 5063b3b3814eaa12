"""The CPU quota of a container, in files as Linux has them in /proc and /sys/fs/cgroup."""

from pathlib import Path

import pytest

from marquee.handlers.core import host
from marquee.handlers.core.cgroup import cpu_quota


def container(tmp_path: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    """The folder of a process; ``@`` in ``mounts`` is where the files are."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cgroup").write_text(groups)
    (tmp_path / "proc" / "mountinfo").write_text(mounts.replace("@", str(tmp_path)))
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path / "proc"


V2 = "24 1 0:21 / /proc rw - proc proc rw\n35 24 0:30 / @/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "30 24 0:26 / @/cg/memory rw - cgroup cgroup rw,memory\n"
    "33 24 0:29 ROOT @/cg/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cg/cpu.max": "150000 100000\n"}, 1.5),
        ({"cg/cpu.max": "max 100000\n"}, None),
        ({"cg/cpu.max": "200000\n"}, 2.0),
        ({"cg/cgroup.procs": ""}, None),
    ],
)
def test_version_2_where_the_container_sees_its_group_as_the_root(files, quota, tmp_path):
    assert cpu_quota(container(tmp_path, "0::/\n", V2, files)) == quota


def test_version_2_counts_the_smallest_limit_around(tmp_path):
    files = {"cg/a/cpu.max": "300000 100000", "cg/a/b/cpu.max": "max 100000", "cg/a/b/c/cpu.max": "4000000 1000000"}
    assert cpu_quota(container(tmp_path, "0::/a/b/c\n", V2, files)) == 3.0


@pytest.mark.parametrize(
    ("root", "group", "folder"),
    [
        ("/", "/docker/1f", "cg/cpu,cpuacct/docker/1f"),
        ("/docker/1f", "/docker/1f", "cg/cpu,cpuacct"),  # as Docker mounts it
        ("/", "/docker/1f", "cg/cpu,cpuacct"),  # with a mount that does not show the group
    ],
)
def test_version_1(root, group, folder, tmp_path):
    files = {f"{folder}/cpu.cfs_quota_us": "50000\n", f"{folder}/cpu.cfs_period_us": "100000\n"}
    groups = f"12:memory:{group}\n4:cpu,cpuacct:{group}\n3:cpuset:{group}\n0::{group}\n"
    process = container(tmp_path, groups, V1.replace("ROOT", root), files)
    assert cpu_quota(process) == 0.5
    (tmp_path / folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cpu_quota(process) is None


def test_a_system_without_groups(tmp_path):
    assert cpu_quota(tmp_path) is None
    assert cpu_quota(container(tmp_path, "nonsense\n", "nonsense\n", {})) is None


@pytest.mark.parametrize(("quota", "cores"), [(None, 8), (0.5, 1), (1.0, 1), (1.5, 2), (64.0, 8)])
def test_a_quota_counts_as_the_number_of_cores(quota, cores, monkeypatch):
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(host, "cpu_quota", lambda: quota)
    assert host.usable_cores() == cores
    assert host.this_host().cores == cores
