"""Ids of events."""

import uuid

from pelton.random_ids import RandomIds


def test_ids_are_random_uuids_and_none_comes_twice():
    new_id = RandomIds()

    made = [new_id() for _ in range(1000)]

    assert len(set(made)) == 1000
    for text in made:
        read = uuid.UUID(text)
        assert (str(read), read.version, read.variant) == (text, 4, uuid.RFC_4122)
