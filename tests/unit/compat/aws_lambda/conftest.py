"""Lambda functions loaded into the test's process, which is put back as it was."""

import asyncio
import logging
import os
import sys

import pytest

from pelton.compat import aws_lambda
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.model.invocation import Delivered, Event, Invocation, LoadRequest


@pytest.fixture
def info():
    """Return who a function is, with options."""

    def make(**options):
        return FunctionInfo(
            name="f",
            version="$LATEST",
            handler="lambda_function.lambda_handler",
            memory_mb="128",
            region="eu-west-1",
            account="012345678912",
            log_group="/aws/lambda/f",
            log_stream="$LATEST",
            task_root="/var/task",
            timeout_s=3.0,
            options={name.replace("_", "-"): value for name, value in options.items()},
        )

    return make


@pytest.fixture
def request_of():
    """Return a request as the worker makes it."""

    def make(target=b"/", method="GET", body=b"", headers=(), **more):
        more = {"client": "192.0.2.1", "deadline": float("inf"), **more}
        return Invocation("i-1", method, target, [(b"host", b"f.test:8080"), *headers], body=body, **more)

    return make


@pytest.fixture
def event_of():
    """Return an event as the worker makes it."""

    def make(
        kind="topic", data=b'{"a": 1}', component_type="pubsub.jetstream", attempt=1, metadata=(), **more
    ):
        event = Event(
            kind=kind,
            component="bus",
            component_type=component_type,
            topic="orders" if kind == "topic" else "",
            data=data,
            content_type="application/json",
            attributes=more,
            metadata=dict(metadata),
            attempt=attempt,
        )
        return Invocation("i-2", "POST", b"/", [], event=event)

    return make


class Platform:
    """Takes what is sent and deferred."""

    def __init__(self):
        self.outputs = []
        self.deferred = []
        self.answer = Delivered(ok=True)
        self.defer = self._defer

    def send(self, output):
        self.outputs.append(output)
        return self.answer

    async def send_async(self, output):
        return self.send(output)

    async def _defer(self, deferred):
        self.deferred.append(deferred)
        return self.answer


@pytest.fixture
def platform():
    return Platform()


@pytest.fixture
def load(tmp_path, platform, monkeypatch):
    """Load a handler from files; `name` in file names is a path, options are keyword arguments."""
    root = logging.getLogger()
    before, handlers, level = set(sys.modules), list(root.handlers), root.level
    policy = asyncio.get_event_loop_policy()
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)

    def run(source, target="lambda_function.lambda_handler", file="lambda_function.py", **options):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return aws_lambda.load(
            LoadRequest(
                source=str(path),
                target=target,
                signature="handler",
                context={},
                send=platform.send,
                send_async=platform.send_async,
                defer=platform.defer,
                bundle=str(tmp_path),
                name="f",
                timeout_s=3.0,
                options={name.replace("_", "-"): value for name, value in options.items()},
            )
        )

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    asyncio.set_event_loop_policy(policy)
    for name in set(sys.modules) - before:
        if not name.startswith("pelton"):
            del sys.modules[name]


@pytest.fixture
def hello(load):
    """Load the body of a handler."""

    def run(body, **options):
        text = "import json, os, sys, logging\ndef lambda_handler(event, context):\n"
        return load(text + "".join(f"    {line}\n" for line in body.splitlines()), **options)

    return run
