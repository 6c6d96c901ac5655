"""Control groups over a tree of plain files: v2, v1, parts of either, and none."""

import os

import pytest

from pelton.dataplane.limits import Ending, Groups, machine_bytes, open_groups
from pelton.model.limits import Limits

GIB = 1024**3
LIMITS = Limits(memory_bytes=GIB, cpu=0.5, cpu_request=0.25, pids=64, disk_bytes=GIB)


class Machine:
    """A root with /proc and /sys."""

    def __init__(self, root):
        self.root = root
        self.at = root / "sys" / "fs" / "cgroup"

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def v2(self, own="/user.slice/app", controllers="cpu io memory pids", root="/"):
        self.write("proc/self/cgroup", f"0::{own}\n")
        self.write(
            "proc/self/mountinfo",
            f"30 20 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
        )
        here = self.at / own.strip("/")
        here.mkdir(parents=True, exist_ok=True)
        (here / "cgroup.controllers").write_text(controllers)
        (here / "cgroup.subtree_control").write_text("")
        (here / "cgroup.procs").write_text("")
        return here

    def v1(self, *controllers, own="/docker/abc", root="/"):
        lines = [f"{n}:{name}:{own}" for n, name in enumerate(controllers, 1)]
        self.write("proc/self/cgroup", "\n".join([*lines, "0::/"]) + "\n")
        mounts = [
            f"{n} 20 0:{n} {root} /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}"
            for n, name in enumerate(controllers, 30)
        ]
        mounts.append("90 20 0:90 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw")
        self.write("proc/self/mountinfo", "\n".join(mounts) + "\n")
        self.write("sys/fs/cgroup/unified/cgroup.controllers", "hugetlb\n")
        for name in controllers:
            (self.at / name / own.removeprefix(root).strip("/")).mkdir(parents=True, exist_ok=True)

    def open(self):
        return open_groups("0a1b2c3d", total_bytes=10 * GIB, root=str(self.root))


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def read(directory, name):
    with open(os.path.join(directory, name)) as file:
        return file.read()


def test_v2_is_used_where_its_controllers_can_be_given_on(machine):
    here = machine.v2()

    groups = machine.open()

    assert (groups.version, set(groups.controllers), groups.missing) == (2, {"memory", "pids", "cpu"}, "")
    parent = here / "pelton-0a1b2c3d"
    assert read(parent, "memory.max") == str(9 * GIB)
    assert read(parent, "cgroup.subtree_control").startswith("+cpu")  # a file keeps what was written last


def test_v2_group_gets_every_limit_in_its_own_words(machine):
    machine.v2()
    group = machine.open().make()

    group.limit(LIMITS)
    group.put(42)

    where = group.paths["memory"]
    assert set(group.paths.values()) == {where}
    assert read(where, "memory.max") == str(GIB)
    assert read(where, "memory.swap.max") == "0"
    assert read(where, "memory.oom.group") == "1"
    assert read(where, "pids.max") == "64"
    assert read(where, "cpu.max") == "50000 100000"
    assert read(where, "cpu.weight") == "25"
    assert read(where, "cgroup.procs") == "42"


def test_v1_group_gets_every_limit_in_its_own_words(machine):
    machine.v1("memory", "pids", "cpu")
    groups = machine.open()
    group = groups.make()

    group.limit(LIMITS)
    group.put(42)

    assert groups.version == 1
    assert read(group.paths["memory"], "memory.limit_in_bytes") == str(GIB)
    assert read(group.paths["memory"], "memory.memsw.limit_in_bytes") == str(GIB)
    assert read(group.paths["pids"], "pids.max") == "64"
    assert read(group.paths["cpu"], "cpu.cfs_quota_us") == "50000"
    assert read(group.paths["cpu"], "cpu.shares") == "256"
    assert {read(where, "cgroup.procs") for where in group.paths.values()} == {"42"}


def test_no_cpu_limit_is_written_as_such(machine):
    machine.v2()
    group = machine.open().make()

    group.limit(Limits(memory_bytes=1, pids=8, cpu_request=0.1))

    assert read(group.paths["cpu"], "cpu.max") == "max 100000"
    assert read(group.paths["cpu"], "cpu.weight") == "10"


def test_missing_controllers_are_named(machine):
    machine.v1("memory")

    groups = machine.open()

    assert groups.controllers == ("memory",)
    assert groups.missing == "no cgroup controller for pids, cpu"


def test_v2_without_memory_and_pids_is_left_for_v1(machine):
    machine.v1("memory", "pids")

    assert machine.open().version == 1


def test_container_whose_mount_begins_below_the_root_is_found(machine):
    machine.v1("memory", own="/docker/abc", root="/docker/abc")

    group = machine.open().make()

    assert group.paths["memory"] == str(machine.at / "memory" / "pelton-0a1b2c3d" / "1")


def test_without_any_there_are_no_groups_and_a_reason(machine):
    machine.write("proc/self/cgroup", "0::/\n")
    machine.write("proc/self/mountinfo", "20 1 0:1 / / rw - ext4 /dev/vda rw\n")

    groups = machine.open()

    assert not groups
    assert groups.make() is None
    assert groups.missing == "no control group can be written"


@pytest.mark.parametrize(("version", "file"), [(2, "memory.events"), (1, "memory.oom_control")])
def test_oom_kill_is_an_ending_with_the_size(machine, version, file):
    machine.v2() if version == 2 else machine.v1("memory")
    group = machine.open().make()
    group.limit(LIMITS)
    assert group.ending() == Ending()

    with open(f"{group.paths['memory']}/{file}", "w") as events:
        events.write("low 0\noom_kill_disable 0\noom_kill 1\n")

    assert group.ending() == Ending("OOMKilled", "it took more than its 1024 MiB of memory")


def test_group_with_something_left_in_it_is_removed_later(machine):
    machine.v2()
    groups = machine.open()
    group = groups.make()
    where = group.paths["memory"]
    with open(f"{where}/cgroup.procs", "w"):
        pass

    groups.drop(group)

    assert read(where, "pids.max") == "0"
    assert read(where, "cgroup.kill") == "1"
    assert groups.sweep()  # its files are in the way here, as processes are there
    assert os.path.isdir(where)


def test_groups_of_an_earlier_zygote_are_emptied(machine):
    here = machine.v2()
    earlier = machine.open().make()

    group = machine.open().make()

    assert group.paths["memory"].startswith(str(here / "pelton-0a1b2c3d"))
    assert read(earlier.paths["memory"], "cgroup.kill") == "1"


def test_memory_of_a_container_is_its_groups(machine):
    assert machine_bytes(str(machine.root)) > 0
    machine.write("sys/fs/cgroup/memory.max", "1073741824\n")
    assert machine_bytes(str(machine.root)) == GIB
    machine.write("sys/fs/cgroup/memory.max", "max\n")
    assert machine_bytes(str(machine.root)) > 0


def test_no_groups_is_false_and_harmless():
    groups = Groups({}, 0, "none")

    assert not groups
    assert not groups.sweep()
    groups.close()
