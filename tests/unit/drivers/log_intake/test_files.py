import json
import os
from typing import Any

import pytest

from pelton.drivers.log_intake.files import FileFollower, FileOptions
from pelton.testing.clock import FakeClock


class World:
    """A directory of logs, and followers of it one after the other."""

    def __init__(self, tmp_path):
        self.logs = tmp_path / "logs"
        self.logs.mkdir()
        self.state = tmp_path / "state" / "positions.json"
        self.clock = FakeClock()
        self.follower: Any = None

    def start(self, *, pattern="*.log", **options):
        self.stop()
        made = FileOptions(paths=(str(self.logs / pattern),), **options)
        self.follower = FileFollower(made, self.state, clock=self.clock, where="test")
        self.follower.open()

    def stop(self):
        if self.follower is not None:
            self.follower.close()

    def kill(self):
        """End the follower without its last save."""
        if self.follower is not None:
            for file in self.follower._files.values():
                os.close(file.fd)
            self.follower = None

    def write(self, name, text, mode="a"):
        with (self.logs / name).open(mode) as handle:
            handle.write(text)

    async def read(self, *, finish=True, rounds=4, room=1000):
        """Return what comes within a second or so of the clock."""
        found = []
        for _ in range(rounds):
            entries = self.follower.read(room)
            found += [json.loads(entry.data)["log"].rstrip("\n") for entry in entries]
            if finish:
                for entry in entries:
                    self.follower.finish(entry)
            await self.clock.advance(0.6)
        return found


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.stop()


async def test_files_that_are_there_at_first_are_read_from_their_end_and_later_ones_from_the_start(world):
    world.write("a.log", "old\n")
    world.start()
    assert await world.read() == []

    world.write("a.log", "new\n")
    world.write("b.log", "first\n")

    assert sorted(await world.read()) == ["first", "new"]


async def test_first_files_are_read_whole_when_asked_for(world):
    world.write("a.log", "old\n")
    world.start(from_head=True)

    assert await world.read() == ["old"]


async def test_position_survives_a_restart(world):
    world.start()
    await world.read()
    world.write("a.log", "1\n2\n")
    assert await world.read() == ["1", "2"]
    world.write("a.log", "3\n")
    world.start()
    world.write("b.log", "while nobody looked\n")

    assert sorted(await world.read()) == ["3", "while nobody looked"]


async def test_what_was_not_finished_comes_again_after_a_kill_and_with_the_same_start(world):
    world.start()
    await world.read()
    world.write("a.log", "1\n2\n3\n")
    entries = world.follower.read(10)
    world.follower.finish(entries[0])
    world.follower.finish(entries[2])
    await world.read()
    world.kill()
    world.start()

    again = world.follower.read(10)
    assert [json.loads(entry.data)["log"] for entry in again] == ["2\n", "3\n"]
    assert [(entry.file, entry.start) for entry in again] == [
        (entry.file, entry.start) for entry in entries[1:]
    ]


async def test_half_a_line_waits_for_its_end_also_over_a_restart(world):
    world.start()
    await world.read()
    world.write("a.log", "one ha")
    assert await world.read() == []
    world.start()
    world.write("a.log", "lf\n")

    assert await world.read() == ["one half"]


async def test_renamed_file_is_read_to_its_end_and_then_the_new_one(world):
    world.start()
    await world.read()
    world.write("a.log", "1\n")
    assert await world.read() == ["1"]
    world.write("a.log", "2\n")
    (world.logs / "a.log").rename(world.logs / "a.log.1")
    world.write("a.log", "3\n")
    world.write("a.log.1", "late\n")

    assert await world.read() == ["2", "late", "3"]
    await world.read(rounds=12)
    assert [file.path for file in world.follower._files.values()] == [str(world.logs / "a.log")]


async def test_file_that_was_renamed_while_nobody_looked_is_found(world):
    world.start()
    await world.read()
    world.write("a.log", "1\n")
    await world.read()
    world.stop()
    world.write("a.log", "2\n")
    (world.logs / "a.log").rename(world.logs / "a.log.20260101-000000")
    world.write("a.log", "3\n")
    world.start()

    assert await world.read() == ["2", "3"]
    assert world.follower.lost_files == 0


async def test_file_that_was_taken_away_while_nobody_looked_is_counted(world, caplog):
    world.start()
    await world.read()
    world.write("a.log", "1\n")
    await world.read()
    world.stop()
    # Kept open, so that the new file cannot get its inode.
    with (world.logs / "a.log").open("rb"):
        (world.logs / "a.log").unlink()
        world.write("a.log", "3\n")
        world.start()

        assert await world.read() == ["3"]
    assert world.follower.lost_files == 1
    assert "rotated away" in caplog.text


@pytest.mark.parametrize("text", ["3\n", "other and longer than before\n"], ids=["shorter", "longer"])
async def test_copied_and_truncated_file_begins_anew(world, text):
    world.start()
    await world.read()
    world.write("a.log", "one\ntwo\n")
    assert await world.read() == ["one", "two"]
    world.write("a.log", text, mode="w")

    assert await world.read() == [text.strip()]


async def test_file_truncated_while_nobody_looked_begins_anew(world):
    world.start()
    await world.read()
    world.write("a.log", "one\ntwo\n")
    await world.read()
    world.stop()
    world.write("a.log", "other and longer than before\n", mode="w")
    world.start()

    assert await world.read() == ["other and longer than before"]


async def test_links_are_followed_to_where_they_lead_now(world):
    """As the kubelet does: a link per container, to a file that is renamed and made anew."""
    pods = world.logs / "pods"
    pods.mkdir()
    (pods / "0.txt").write_text("")
    (world.logs / "a.log").symlink_to(pods / "0.txt")
    world.start()
    await world.read()
    (pods / "0.txt").write_text("1\n")
    assert await world.read() == ["1"]
    (pods / "0.txt").rename(pods / "0.txt.20260101")
    (pods / "0.txt").write_text("2\n")

    assert await world.read() == ["2"]


async def test_deleted_file_is_let_go_of(world):
    world.start()
    await world.read()
    world.write("a.log", "1\nrest")
    assert await world.read() == ["1"]
    (world.logs / "a.log").unlink()

    assert await world.read(rounds=15) == ["rest"]
    await world.read(rounds=15)
    assert not world.follower._files
    assert json.loads(world.state.read_text()) == {"files": {}}


async def test_excluded_forbidden_and_other_than_files_are_left(world, tmp_path, caplog):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "s.log").write_text("s3cret\n")
    world.start(exclude=("*debug*",), forbidden=(secret,))
    await world.read()
    world.write("debug.log", "x\n")
    (world.logs / "link.log").symlink_to(secret / "s.log")
    (world.logs / "directory.log").mkdir()
    os.mkfifo(world.logs / "pipe.log")
    world.write("a.log", "ok\n")

    assert await world.read() == ["ok"]
    assert "belongs to the system" in caplog.text


async def test_no_more_is_read_than_there_is_room_for(world):
    world.start()
    await world.read()
    for name in ("a.log", "b.log"):
        world.write(name, "x" * 99 + "\n")
        world.write(name, ("y" * 99 + "\n") * 9)

    first = world.follower.read(1)
    assert len(first) == 10
    assert world.follower.backlog() == pytest.approx(10, abs=3)
    assert len(world.follower.read(0)) == 0
    assert len(world.follower.read(1)) == 10


async def test_records_that_are_cut_are_told_of_once(world, caplog):
    world.start(longest=100)
    await world.read()
    world.write("a.log", ("x" * 150 + "\n") * 3)

    assert await world.read() == ["x" * 100 + " [line cut]"] * 3
    assert caplog.text.count("which are cut") == 1


async def test_positions_that_cannot_be_read_or_saved_are_told_of(world, caplog):
    world.state.parent.mkdir()
    world.state.write_text('{"files": 3}')
    world.write("a.log", "1\n")
    world.start()
    assert await world.read() == ["1"]
    assert "positions cannot be read" in caplog.text

    world.state.unlink()
    world.state.mkdir()
    world.write("a.log", "2\n")
    assert await world.read() == ["2"]
    assert "positions cannot be saved" in caplog.text
    world.state.rmdir()
