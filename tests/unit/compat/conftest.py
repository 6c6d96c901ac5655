import sys
from pathlib import Path

import pytest

from pelton.cli.tables import resolve_convention
from pelton.dataplane import loader
from pelton.model.desired import Workload
from pelton.model.invocation import Delivered, Event, Invocation
from pelton.model.state import StateAnswer

FIXTURES = Path(__file__).parents[2] / "fixtures" / "functions"


class Platform:
    """Takes outputs; answers what `answer` says."""

    def __init__(self):
        self.outputs = []
        self.answer = Delivered(ok=True, data=b"stored", metadata={"statusCode": "200"})
        self.state_calls = []
        self.state_answer = StateAnswer()

    def send(self, output):
        self.outputs.append(output)
        return self.answer

    async def send_async(self, output):
        return self.send(output)

    def state(self, call):
        self.state_calls.append(call)
        return self.state_answer

    async def state_async(self, call):
        return self.state(call)


@pytest.fixture
def platform():
    return Platform()


@pytest.fixture
def load(tmp_path, platform, monkeypatch):
    """Load source text, or a directory of tests/fixtures/functions, by a convention."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    for name in (
        *("FUNCTION_TARGET", "FUNCTION_SIGNATURE_TYPE"),
        *("K_SERVICE", "K_REVISION", "K_CONFIGURATION", "PORT"),
    ):
        monkeypatch.setenv(name, "set-by-test")
    loader.expose_shims()

    def run(source, convention="openfunction", target="", signature="", context=None):
        if "\n" in source:
            (tmp_path / "main.py").write_text(source)
            folder = tmp_path
        else:
            folder = FIXTURES / source
        workload = Workload(
            namespace="default",
            name="f",
            revision="f-1",
            bundle=str(folder),
            target=target,
            signature=signature,
            context=context or {},
        )
        return loader.load(
            workload,
            resolve_convention(convention),
            platform.send,
            platform.send_async,
            state=platform.state,
            state_async=platform.state_async,
        )

    yield run
    for name in set(sys.modules) - modules:
        if not name.startswith("pelton"):
            del sys.modules[name]


@pytest.fixture
def request_of():
    def make(target=b"/", method="GET", body=b"", headers=()):
        return Invocation(id="i-1", method=method, target=target, headers=list(headers), body=body)

    return make


@pytest.fixture
def event_of():
    def make(kind="topic", data=b'{"a": 1}', **attributes):
        event = Event(
            kind=kind,
            component="bus",
            component_type="pubsub.jetstream" if kind == "topic" else "bindings.cron",
            topic="orders" if kind == "topic" else "",
            data=data,
            content_type="application/json",
            attributes=attributes,
            metadata={"key": "value"},
        )
        return Invocation(id="i-2", method="POST", target=b"/", headers=[], event=event)

    return make
