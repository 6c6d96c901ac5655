"""The servers themselves: they start, answer, and keep their data when they are killed.

Kafka and RabbitMQ, which take seconds to start, are killed and started again by the tests of their drivers.
"""

import pytest

from tests.services.server import listening
from tests.services.table import SERVERS, required, started

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(120)]


@pytest.mark.parametrize("name", [name for name in SERVERS if name not in ("kafka", "rabbitmq")])
def test_server_starts_and_comes_back_on_its_port_after_a_kill(name):
    if SERVERS[name].missing() and not required():
        pytest.skip(SERVERS[name].missing())

    with started(name) as server:
        server.kill()
        assert not listening(server.port)
        server.start()
        assert server.ready()

    assert not listening(server.port)
