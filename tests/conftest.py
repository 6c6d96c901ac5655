"""Real servers for any test: `kafka`, `redis`, `rabbitmq`, `mosquitto`, `postgresql`, `alertmanager`.

Each is started once per run, when the first test asks for it; tests share it, so they name topics, queues and
tables of their own. `own_server` starts one that a test may kill. Where a server is not on the machine the
test is skipped, or fails when PELTON_REQUIRE_SERVICES is set, as in CI.
"""

import os
from contextlib import ExitStack

import pytest

from tests.services.table import SERVERS, required, started

# Servers are started by a fork in which gRPC, once a test has used it, would tidy up after threads that are
# not there, and end the child now and then. Read when gRPC is first used.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def _there(name):
    reason = SERVERS[name].missing()
    if not reason:
        return
    sentence = f"{name} cannot be started: {reason}; scripts/services installs it"
    if required():
        pytest.fail(sentence)
    pytest.skip(sentence)


def _shared(name):
    @pytest.fixture(scope="session", name=name)
    def server():
        _there(name)
        with started(name) as found:
            yield found

    return server


kafka = _shared("kafka")
redis = _shared("redis")
rabbitmq = _shared("rabbitmq")
mosquitto = _shared("mosquitto")
postgresql = _shared("postgresql")
alertmanager = _shared("alertmanager")


@pytest.fixture
def own_server():
    """Start a server of this test's own: `own_server("kafka", keystore=...)`."""
    with ExitStack() as stack:

        def start(name, **options):
            _there(name)
            return stack.enter_context(started(name, **options))

        yield start
