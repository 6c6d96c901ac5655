"""All servers by name, and `python -m tests.services` with which demos and benchmarks start them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.services.alertmanager import Alertmanager
from tests.services.kafka import Kafka
from tests.services.mosquitto import Mosquitto
from tests.services.postgresql import PostgreSql
from tests.services.rabbitmq import RabbitMq
from tests.services.redis import Redis
from tests.services.server import Server

__all__ = ["REQUIRED", "SERVERS", "started"]

SERVERS: Final[Mapping[str, type[Server]]] = {
    server.name: server for server in (Kafka, Redis, RabbitMq, Mosquitto, PostgreSql, Alertmanager)
}
"""Name -> class."""

REQUIRED: Final = "PELTON_REQUIRE_SERVICES"
"""Environment variable under which a missing server fails a test instead of skipping it."""


@contextmanager
def started(name: str, **options: Any) -> Iterator[Any]:
    """Start a server in a directory of its own, and end and remove both afterwards.

    The directory is not pytest's: some servers run as a user of theirs, who may not enter those.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"pelton-{name}-"))
    server = SERVERS[name](directory, **options)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(directory, ignore_errors=True)


def required() -> bool:
    """Tell whether every server has to be there."""
    return os.environ.get(REQUIRED, "") not in ("", "0")
