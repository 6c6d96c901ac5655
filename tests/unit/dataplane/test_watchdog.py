"""The watchdog over a /proc of plain files: whose process is whose, and what is too much."""

import os

import pytest

from pelton.dataplane.watchdog import Watchdog
from pelton.model.limits import Limits

PAGE = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024
LIMITS = Limits(memory_bytes=10 * MIB, pids=4, disk_bytes=MIB)


class Proc:
    """A /proc."""

    def __init__(self, root):
        self.root = root

    def add(
        self, pid, parent, *, session=0, threads=1, started=1, resident=MIB, pss=None, user="", environ=()
    ):
        place = self.root / str(pid)
        (place / "ns").mkdir(parents=True)
        words = ["S", parent, pid, session or pid, *[0] * 13, threads, 0, started, 0, resident // PAGE]
        (place / "stat").write_text(f"{pid} (py) thon) " + " ".join(map(str, words)))
        (place / "smaps_rollup").write_text(
            f"Rss: 1 kB\nPss: {(resident if pss is None else pss) // 1024} kB\n"
        )
        (place / "environ").write_text("\0".join(environ))
        os.symlink(user or os.readlink("/proc/self/ns/user"), place / "ns" / "user")

    def watchdog(self, *, memory=True, pids=True):
        return Watchdog(memory=memory, pids=pids, proc=str(self.root))


@pytest.fixture
def proc(tmp_path):
    return Proc(tmp_path)


def reasons(watchdog, *workers, scratch=""):
    found = watchdog.look(dict.fromkeys(workers, (LIMITS, scratch)))
    return {worker: ending.reason for worker, ending in found.items()}


def test_worker_within_its_limits_is_left_alone(proc):
    proc.add(10, 1)

    assert reasons(proc.watchdog(), 10) == {}


def test_memory_of_a_tree_counts_together_and_shared_pages_in_proportion(proc):
    proc.add(10, 1, resident=8 * MIB, pss=8 * MIB)
    proc.add(11, 10, resident=8 * MIB, pss=MIB)
    watchdog = proc.watchdog()
    assert reasons(watchdog, 10) == {}

    proc.add(12, 11, resident=8 * MIB, pss=2 * MIB)

    assert reasons(watchdog, 10) == {10: "OOMKilled"}
    assert reasons(proc.watchdog(memory=False), 10) == {}


def test_threads_and_processes_count_together(proc):
    proc.add(10, 1, threads=3)
    proc.add(11, 10, threads=2)
    proc.add(20, 1, threads=4)

    assert reasons(proc.watchdog(), 10, 20) == {10: "PidsLimit"}
    assert reasons(proc.watchdog(pids=False), 10, 20) == {}


def test_orphan_belongs_to_whom_it_was_seen_with_or_whose_session_it_has(proc):
    proc.add(10, 1)
    proc.add(11, 10, threads=2)
    proc.add(12, 1, session=10, threads=1)
    watchdog = proc.watchdog()
    assert reasons(watchdog, 10) == {}
    (proc.root / "11" / "stat").unlink()
    for name in ("smaps_rollup", "environ", "ns/user"):
        (proc.root / "11" / name).unlink()
    (proc.root / "11" / "ns").rmdir()
    (proc.root / "11").rmdir()

    proc.add(11, 1, threads=4)  # the same process, its parent gone

    assert reasons(watchdog, 10) == {10: "PidsLimit"}


@pytest.mark.parametrize("mark", [{"user": "user:[7]"}, {"environ": ("A=b", "POD_NAME=one-abcde")}])
def test_orphan_belongs_to_whose_namespace_or_name_it_has(proc, mark):
    proc.add(10, 1, user="user:[7]")
    proc.add(20, 1, user="user:[8]")
    proc.add(30, os.getpid(), threads=4, **mark)
    watchdog = proc.watchdog()
    watchdog.watch(10, "one-abcde")
    watchdog.watch(20, "two-abcde")

    assert reasons(watchdog, 10, 20) == {10: "PidsLimit"}


def test_orphan_of_nobody_is_left_alone(proc):
    proc.add(10, 1, user="user:[7]")
    proc.add(30, os.getpid(), threads=9)

    assert reasons(proc.watchdog(), 10) == {}


def test_files_of_a_scratch_directory_count_with_all_below(proc, tmp_path):
    proc.add(10, 1)
    scratch = tmp_path / "scratch"
    (scratch / "deep" / "er").mkdir(parents=True)
    (scratch / "deep" / "er" / "file").write_bytes(b"x" * 600_000)
    assert reasons(proc.watchdog(), 10, scratch=str(scratch)) == {}

    (scratch / "more").write_bytes(b"x" * 600_000)

    assert reasons(proc.watchdog(), 10, scratch=str(scratch)) == {10: "DiskLimit"}


def test_worker_that_has_ended_is_not_found_wanting(proc):
    assert reasons(proc.watchdog(), 10) == {}
