"""The access log moves on when it is full, and older files go."""

from pelton.targets.local.access_log import rotate


def test_small_or_missing_file_stays(tmp_path):
    log = tmp_path / "access.jsonl"

    assert rotate(log, limit_bytes=10) is False
    log.write_text("123456789")
    assert rotate(log, limit_bytes=10) is False


def test_full_file_moves_on_and_the_oldest_goes(tmp_path):
    log = tmp_path / "access.jsonl"
    for number in range(5):
        log.write_text(f"{number} is long enough")
        assert rotate(log, limit_bytes=10, older=3)

    kept = {path.name: path.read_text()[0] for path in tmp_path.iterdir()}
    assert kept == {"access.jsonl.1": "4", "access.jsonl.2": "3", "access.jsonl.3": "2"}
