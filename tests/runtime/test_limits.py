"""What the container may use, on made-up control groups, and how many workers come of it."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mpack_runtime import limits, threads
from mpack_runtime.config import Settings
from mpack_runtime.rest import crew

MIB = 1 << 20
V1 = {"cpu.cfs_period_us": "100000\n", "cpu.cfs_quota_us": "90000\n"}
#: What version 1 says where there is no limit.
NONE = "9223372036854771712\n"
ENTRY = """
held = bytearray(b"x" * (80 << 20))

def init():
    return "matrix"

def info():
    return [], []

def predict_on_matrix(matrix, provided_columns_names=None):
    return [row[0] + row[2] / 1000 for row in matrix], ["quality"]
"""


def test_cpu_limit_of_both_cgroup_versions(tmp_path: Path) -> None:
    """A quota is rounded up and never exceeds the affinity; "max" and -1 are no limit."""
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert limits.cpu_limit(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    unlimited = limits.cpu_limit(tmp_path)
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert limits.cpu_limit(tmp_path) == unlimited >= 1
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    assert limits.cpu_limit(tmp_path) == 1


@pytest.mark.parametrize(
    ("lines", "directory", "files"),
    [
        ("0::/docker/1f\n", "docker/1f", {"cpu.max": "100000 100000"}),
        ("0::/kube/pod/1f\n", "kube", {"cpu.max": "100000 100000"}),
        ("7:memory:/x\n4:cpu,cpuacct:/docker/1f\n", "cpu/docker/1f", V1),
        ("4:cpuacct,cpu:/docker/1f\n0::/y\n", "cpu", V1),
    ],
)
def test_cpu_limit_is_found_in_the_hosts_cgroup_namespace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, directory: str, files: dict[str, str]
) -> None:
    """/proc/self/cgroup tells the group; those above it count too."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(8), raising=False)
    groups, root = tmp_path / "groups", tmp_path / "fs"
    groups.write_text(lines)
    assert limits.cpu_limit(root, groups) == 8
    (root / directory).mkdir(parents=True)
    for name, text in files.items():
        (root / directory / name).write_text(text)
    assert limits.cpu_limit(root, groups) == 1


@pytest.mark.parametrize(
    ("lines", "files", "least"),
    [
        ("0::/\n", {"memory.max": "536870912\n"}, 512),
        ("0::/\n", {"memory.max": "max\n", "memory.high": "268435456\n"}, 256),
        ("0::/kube/pod/1f\n", {"kube/pod/1f/memory.max": "max\n", "kube/memory.max": "104857600\n"}, 100),
        ("4:memory:/docker/1f\n", {"memory/memory.limit_in_bytes": "536870912\n"}, 512),
        ("4:memory:/docker/1f\n", {"memory/docker/1f/memory.limit_in_bytes": "104857600\n"}, 100),
        ("4:cpu,memory:/x\n", {"memory/memory.limit_in_bytes": NONE}, None),
        ("0::/../../x\n", {"memory.max": "max\n"}, None),
        ("", {}, None),
    ],
)
def test_memory_limit_of_both_cgroup_versions(
    tmp_path: Path, lines: str, files: dict[str, str], least: int | None
) -> None:
    """The least of all groups above the process; without one it is the machine's memory, and no limit."""
    groups, root, machine = tmp_path / "groups", tmp_path / "fs", tmp_path / "meminfo"
    groups.write_text(lines)
    machine.write_text("MemFree:  1 kB\nMemTotal:  1048576 kB\n")
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    expected = (1024 * MIB, False) if least is None else (least * MIB, True)
    assert limits.memory_limit(root, groups, machine) == expected


@pytest.mark.parametrize(
    ("processors", "limit", "shared", "own", "number"),
    [
        (4, 4096, 200, 40, 4),  # one a processor
        (8, 512, 200, 40, 3),  # 460 MiB usable, 260 left, 72 each
        (8, 512, 20, 400, 1),  # the second model would not fit
        (8, 100, 200, 40, 1),  # not even one fits: it is tried
        (1, 4096, 0, 0, 1),
    ],
)
def test_as_many_workers_as_fit(processors: int, limit: int, shared: int, own: int, number: int) -> None:
    """What all share counts once; each has its own and room for requests; a tenth of the limit is left."""
    assert crew.fit(processors, limit * MIB, shared * MIB, own * MIB) == number


def test_the_sentence_says_why() -> None:
    """Processors, or memory with its figures; and what to set where processors are left over."""
    assert "4 workers, one for each processor (the machine has 8,192 MiB" in crew.sentence(
        4, 4, 8192 * MIB, False, MIB, MIB, None
    )
    told = crew.sentence(1, 8, 512 * MIB, True, 300 * MIB, 90 * MIB, None)
    assert "1 worker, for memory has no room for 8 (the limit has 512 MiB, they share 300 MiB" in told
    assert told.endswith("MPACK_THREADS_PER_WORKER=8 lets a model that uses threads have all processors.")
    assert "THREADS" not in crew.sentence(1, 8, 512 * MIB, True, 300 * MIB, 90 * MIB, 2)


def test_own_memory_where_the_kernel_does_not_tell(tmp_path: Path) -> None:
    """The sums of the kernel; without them, what was written to, which is more."""
    rollup = tmp_path / "smaps_rollup"
    rollup.write_text("1-2 ---p 0 00:00 0  [rollup]\nPrivate_Clean: 64 kB\nPrivate_Dirty: 1024 kB\nSwapPss: 8 kB\n")
    assert crew.own_memory(rollup) == (64 << 10, 1032 << 10)
    clean, dirty = crew.own_memory(tmp_path / "none")
    assert clean == 0 and dirty > 10 * MIB


def test_automatic_workers_get_a_thread_each() -> None:
    """The pools of workers that are one a processor have one thread, unless the user says more."""
    assert threads.apply(Settings(workers=None), {}) == 1
    assert threads.apply(Settings(workers=None, threads_per_worker=3), {}) == 3


def _until(found: Callable[[], Any], seconds: float = 20) -> Any:
    """What `found` gives, once it gives something."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return result


def test_auto_starts_the_others_once_the_first_is_measured(
    make_model: Callable[..., Path], start: Callable[..., Any]
) -> None:
    """A model that each worker loads counts in each; the sentence stands on stderr, and all of them serve."""
    server = start(make_model(ENTRY), workers="auto")
    end = re.compile(r"MPACK_WORKERS=auto: (\d+) workers?, .* each takes ([\d,]+) MiB")
    found = _until(lambda: end.search(server.stderr()))
    assert int(found[1]) == limits.cpu_limit()
    assert 80 <= int(found[2].replace(",", "")) < 150, "the model's 80 MiB are each worker's own"
    _until(lambda: server.stderr().count("is ready on") == limits.cpu_limit())
    text = server.client.get("/metrics").text
    assert text.count("process_open_fds{") == limits.cpu_limit() + 1
    server.process.send_signal(signal.SIGHUP)
    _until(lambda: server.stderr().count("is ready on") == 2 * limits.cpu_limit())
    assert server.stderr().count("MPACK_WORKERS=auto") == 1, "new workers for old ones, as many"
    assert server.stop()[0] == 0


def test_a_wrong_number_names_auto(model_json: Path, command: Callable[..., Any]) -> None:
    """The sentence tells what else is allowed; Triton's image refuses auto."""
    ran = command(model_json, "serve", WORKERS="Auto")
    assert ran.code == 2 and "from 1 to 1024, or auto" in ran.err
    ran = command(model_json, "triton", WORKERS="auto")
    assert ran.code == 2 and "give a number" in ran.err
