"""Landlock: what rules can say, and what a restricted process of this kernel can and cannot do."""

import os
import subprocess
import sys

import pytest

from pelton.dataplane import landlock

needs_landlock = pytest.mark.skipif(not landlock.abi(), reason="the kernel has no Landlock")


def test_around_names_every_neighbour_and_nothing_hidden(tmp_path):
    root = os.path.realpath(tmp_path)
    for name in ("a/secret/deep", "a/open", "b", "a/x"):
        (tmp_path / name).mkdir(parents=True)

    found = landlock.around([f"{root}/a/secret"])

    below = sorted(path[len(root) :] for path in found if path.startswith(f"{root}/"))
    assert below == ["/a/open", "/a/x", "/b"]
    assert "/" not in found
    assert root not in found
    assert "/usr" in found


def test_around_is_the_same_for_a_hidden_directory_inside_another(tmp_path):
    root = os.path.realpath(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)

    # Others come and go beside it meanwhile.
    before = set(landlock.around([f"{root}/a"]))
    nested = set(landlock.around([f"{root}/a", f"{root}/a/b"]))
    after = set(landlock.around([f"{root}/a"]))
    assert before & after <= nested <= before | after


_CHILD = """
import os, sys
from pelton.dataplane import landlock
from pelton.dataplane.isolation import no_new_privileges

hidden, parent = sys.argv[1], os.getppid()
no_new_privileges()
rules = landlock.Rules(tuple(landlock.around([hidden])), (hidden + "/mine",), ("/dev",))
landlock.restrict(landlock.abi(), rules)
def tried(what, *words):
    try:
        what(*words)
        return "done"
    except OSError as exc:
        return type(exc).__name__
print(tried(os.listdir, hidden), tried(os.listdir, "/usr"), tried(os.mkdir, hidden + "/mine/new"),
      tried(open, "/dev/null", "w"), tried(os.mkdir, "/usr/new"), tried(os.kill, parent, 0))
"""


@needs_landlock
def test_restricted_process_reaches_what_the_rules_list_and_no_more(tmp_path):
    (tmp_path / "mine").mkdir()

    said = subprocess.run(
        [sys.executable, "-c", _CHILD, os.path.realpath(tmp_path)], capture_output=True, text=True, check=True
    ).stdout.split()

    signalled = "PermissionError" if landlock.abi() >= landlock.SCOPE_ABI else "done"
    assert said == ["PermissionError", "done", "done", "done", "PermissionError", signalled]
