"""Real servers for any test: `kafka`, `redis`, `rabbitmq`, `mosquitto`, `postgresql`, `alertmanager`.

Each is started once per run, when the first test asks for it; tests share it, so they name topics, queues and
tables of their own. `own_server` starts one that a test may kill. Where a server is not on the machine the
test is skipped, or fails when PELTON_REQUIRE_SERVICES is set, as in CI.

For a whole run: files with long tests come first, so that the last of two processes has little left to do
alone, and a teardown that does not end is ended.
"""

import faulthandler
import os
import signal
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.services.table import SERVERS, required, started

# Servers are started by a fork in which gRPC, once a test has used it, would tidy up after threads that are
# not there, and end the child now and then. Read when gRPC is first used.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


# A busy machine is no defect: nothing here is judged by how long an example takes to make or to run.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")

TEARDOWN_S = 180
STDERR = pytest.StashKey[int]()
DIED = pytest.StashKey[bool]()


def pytest_configure(config):
    config.stash[STDERR] = os.dup(2)  # not captured yet
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # So a shell starts what runs in the background; commands under test would not hear Ctrl-C either.
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config):
    os.close(config.stash[STDERR])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if error:
        node.config.stash[DIED] = True


def pytest_sessionfinish(session):
    """Tell a run that a process's death ended from one in which tests failed: scripts/test asks."""
    if session.config.stash.get(DIED, False):
        session.exitstatus = pytest.ExitCode.INTERRUPTED


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    unnamed = [item.nodeid for item in items if " at 0x" in item.nodeid]
    assert not unnamed, f"two processes would call it by two names: {unnamed[0]}"
    longest: dict[Path, float] = {}
    for item in items:
        marks = [mark.args[0] for mark in item.iter_markers("timeout") if mark.args]
        longest[item.path] = max([longest.get(item.path, 0), *marks])
    items.sort(key=lambda item: -longest[item.path])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item):
    """A test that failed by its timeout has none left for its teardown, which then could wait for ever."""
    faulthandler.dump_traceback_later(TEARDOWN_S, exit=True, file=item.config.stash[STDERR])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


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
