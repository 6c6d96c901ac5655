"""Peers: how their command lines are filled in and their sources written."""

from bench.bodies import BIG, FUNCTIONS, REQUESTS_OF
from bench.peers import PEERS, describe, write_function


def test_every_peer_is_pinned_and_its_command_knows_where_to_listen():
    for peer in PEERS.values():
        assert all("==" in requirement for requirement in peer.requirements)
        words = " ".join(peer.command) + peer.runner
        assert "{port}" in words or "serve(" in words  # the latter reads LISTEN_ADDRESS
    assert describe(["func-python"]).startswith("func-python==")


def test_a_function_is_its_main_py_or_files_by_name(tmp_path):
    one = write_function(tmp_path / "one", "    def f():\n        return 1\n")
    assert (one / "main.py").read_text() == "def f():\n    return 1\n"
    many = write_function(tmp_path / "many", {"a/b.py": "\n    x = 1\n", "c.yaml": "d: 1\n"})
    assert (many / "a/b.py").read_text() == "x = 1\n"
    assert (many / "c.yaml").read_text() == "d: 1\n"


def test_bodies_have_the_announced_length():
    head, _, body = REQUESTS_OF["in"].partition(b"\r\n\r\n")
    assert len(body) == BIG and head.endswith(b"content-length: %d" % BIG)


def test_sync_and_async_functions_differ_in_one_word_only():
    assert FUNCTIONS["async"].replace("async def", "def") == FUNCTIONS["sync"]
