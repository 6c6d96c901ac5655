"""The Lambda Extensions API, version 2020-01-01: companions of a runtime that hear of invocations.

External extensions are executables of the bundle's `extensions/` (or /opt/extensions), started by
`runtime_api.py` before the runtime; internal ones are threads of the runtime that register themselves. Both
speak to the same address as the runtime; `api.py` passes on what is not its own. Telemetry and logs are not
offered, which their calls say.
Source: `faas-conventions` contract, section 2.2. Decided where it is silent: the caller has its answer as
soon as the runtime gave it, and the next invocation waits until every INVOKE subscriber asked for its next
event; an extension that reports an error or ends while it is needed ends the runtime, too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import uuid4

from pelton.compat.aws_lambda.api import Pending, json_reply, refuse
from pelton.compat.aws_lambda.api_http import Request
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.compat.aws_lambda.states import Refusal

__all__ = ["Agent", "Extensions"]

MAX_EXTENSIONS: Final = 10
_BASE: Final = b"/2020-01-01/extension/"
_BODY_BYTES: Final = 1024 * 1024
_EVENTS: Final = ("INVOKE", "SHUTDOWN")
_id_matches = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
_UNSUPPORTED: Final = {
    b"/2022-07-01/telemetry": ("Telemetry.NotSupported", "Telemetry API is not supported"),
    b"/2020-08-15/logs": ("Logs.NotSupported", "Logs API is not supported"),
}


class AgentPhase(StrEnum):
    """What an extension is doing, in the platform's words."""

    STARTED = "Started"
    REGISTERED = "Registered"
    READY = "Ready"
    RUNNING = "Running"
    INIT_ERROR = "InitError"
    EXIT_ERROR = "ExitError"


class Agent:
    """One extension.

    Args:
        name: Its name: the executable's, or what an internal one calls itself.
        external: Whether it is a process of its own.

    Attributes:
        id: What it identifies itself by.
        events: What it subscribed to.
        phase: What it is doing.
        waiting: Its open requests for the next event.
        last: The shutdown event that it has not asked for yet.
    """

    def __init__(self, name: str, *, external: bool) -> None:
        self.name = name
        self.external = external
        self.id = str(uuid4())
        self.events: frozenset[str] = frozenset()
        self.phase = AgentPhase.STARTED
        self.waiting: list[Request] = []
        self.last: dict[str, Any] | None = None

    def move(self, wanted: AgentPhase) -> Refusal | None:
        """Go to another phase, or say why not."""
        if wanted not in _MOVES[self.phase]:
            text = f"The extension {self.name} is in state {self.phase} and cannot go to {wanted}"
            return Refusal(403, "Extension.InvalidExtensionState", text)
        self.phase = wanted
        return None

    def send(self, event: dict[str, Any]) -> None:
        """Answer its open requests with an event."""
        waiting, self.waiting = self.waiting, []
        for request in waiting:
            json_reply(request, 200, event, f"Lambda-Extension-Event-Identifier: {uuid4()}\r\n".encode())
        self.phase = AgentPhase.RUNNING

    def forget(self, request: Request) -> None:
        """Note that a request was given up."""
        if request in self.waiting:
            self.waiting.remove(request)


_ALIVE: Final = frozenset({AgentPhase.REGISTERED, AgentPhase.READY, AgentPhase.RUNNING})
_MOVES: Final = {
    AgentPhase.STARTED: frozenset({AgentPhase.REGISTERED}),
    AgentPhase.REGISTERED: frozenset({AgentPhase.READY, AgentPhase.INIT_ERROR, AgentPhase.EXIT_ERROR}),
    AgentPhase.READY: frozenset({AgentPhase.READY, AgentPhase.EXIT_ERROR}),
    AgentPhase.RUNNING: frozenset({AgentPhase.READY, AgentPhase.EXIT_ERROR}),
    AgentPhase.INIT_ERROR: frozenset({AgentPhase.INIT_ERROR}),
    AgentPhase.EXIT_ERROR: frozenset({AgentPhase.EXIT_ERROR}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """Whom extensions have something to say to.

    Attributes:
        moved: Called when one may have become ready, or registered.
        failed: Called with error type and message when one gave up.
    """

    moved: Callable[[], None]
    failed: Callable[[str, str], None]


class Extensions:
    """All extensions of one runtime.

    Args:
        info: Who the function is.
        external: Names of the executables that are about to be started.
        tell: Whom to tell.

    Attributes:
        closed: Whether registration is over: the runtime has asked for its first invocation.
    """

    def __init__(self, info: FunctionInfo, external: Sequence[str], tell: Tell) -> None:
        self.closed = False
        self._info = info
        self._tell = tell
        self._agents = {name: Agent(name, external=True) for name in external}

    # --- for the owner of the processes -------------------------------------------------------------------

    @property
    def registered(self) -> bool:
        """Whether every external extension has registered."""
        return all(agent.phase is not AgentPhase.STARTED for agent in self._agents.values())

    @property
    def ready(self) -> bool:
        """Whether every extension waits for its next event."""
        return all(agent.waiting for agent in self._agents.values() if agent.phase in _ALIVE)

    @property
    def any(self) -> bool:
        """Whether there is one that could be told of the shutdown."""
        return any(agent.phase in _ALIVE for agent in self._agents.values())

    def invoke(self, pending: Pending, deadline_ms: int) -> None:
        """Tell of an invocation."""
        call = pending.call
        event: dict[str, Any] = {
            "eventType": "INVOKE",
            "deadlineMs": deadline_ms,
            "requestId": call.request_id,
            "invokedFunctionArn": call.arn or self._info.arn,
            "tracing": {"type": "X-Amzn-Trace-Id", "value": call.trace_id},
        }
        for agent in self._agents.values():
            if "INVOKE" in agent.events and agent.waiting:
                agent.send(event)

    def shut_down(self, reason: str, deadline_ms: int) -> bool:
        """Tell of the end (`spindown`, `timeout` or `failure`); False when nobody wants to know."""
        event = {"eventType": "SHUTDOWN", "deadlineMs": deadline_ms, "shutdownReason": reason}
        told = [
            agent for agent in self._agents.values() if agent.phase in _ALIVE and "SHUTDOWN" in agent.events
        ]
        for agent in told:
            if agent.waiting:
                agent.send(event)
            else:  # it is still busy with the last invocation
                agent.last = event
        return bool(told)

    # --- requests -----------------------------------------------------------------------------------------

    def accept(self, request: Request) -> bool:
        """Take a request of this API; False when it is none."""
        path = request.path
        if path in _UNSUPPORTED:
            wanted, request.finish = "PUT", _unsupported
        elif not path.startswith(_BASE):
            return False
        else:
            what = path[len(_BASE) :]
            if what == b"register":
                wanted, request.finish = "POST", self._register
            elif what == b"event/next":
                wanted, request.finish = "GET", self._next
            elif what in {b"init/error", b"exit/error"}:
                wanted, request.finish = "POST", self._error
            else:
                return False
        request.limit_bytes = _BODY_BYTES
        if request.method != wanted:
            request.reply(405, f"Allow: {wanted}\r\n".encode(), b"")
        return True

    def _register(self, request: Request) -> None:
        name = request.header(b"lambda-extension-name")
        if not name:
            _forbid(request, "Extension.InvalidExtensionName", "Empty extension name")
            return
        events = _wanted_events(request.body)
        if events is None:
            text = 'The body is not a JSON object such as {"events": ["INVOKE", "SHUTDOWN"]}'
            _forbid(request, "InvalidRequestFormat", text)
            return
        agent = self._agents.get(name)
        external = agent is not None and agent.external
        for event in events:
            if event not in _EVENTS or (event == "SHUTDOWN" and not external):
                who = "external" if external else "internal"
                _forbid(request, "Extension.InvalidEventType", f"{event}: no event of {who} extensions")
                return
        if not external:
            refusal = self._new_internal(name)
            if refusal is not None:
                refuse(request, refusal)
                return
        agent = self._agents[name]
        refusal = agent.move(AgentPhase.REGISTERED)
        if refusal is not None:
            refuse(request, refusal)
            return
        agent.events = frozenset(events)
        info = self._info
        answer = {"functionName": info.name, "functionVersion": info.version, "handler": info.handler}
        features = request.header(b"lambda-extension-accept-feature").split(",")
        if "accountId" in {feature.strip() for feature in features}:
            answer["accountId"] = info.account
        json_reply(request, 200, answer, f"Lambda-Extension-Identifier: {agent.id}\r\n".encode())
        self._tell.moved()

    def _new_internal(self, name: str) -> Refusal | None:
        if self.closed:
            text = "Extension registration closed already"
            return Refusal(403, "Extension.RegistrationClosed", text)
        if name in self._agents:
            text = "An extension of this name is registered already"
            return Refusal(403, "Extension.InvalidExtensionState", text)
        if len(self._agents) >= MAX_EXTENSIONS:
            text = f"Extension limit ({MAX_EXTENSIONS}) reached"
            return Refusal(403, "Extension.TooManyExtensions", text)
        self._agents[name] = Agent(name, external=False)
        return None

    def _next(self, request: Request) -> None:
        agent = self._identified(request)
        if agent is None:
            return
        refusal = agent.move(AgentPhase.READY)
        if refusal is not None:
            refuse(request, refusal)
            return
        agent.waiting.append(request)
        request.work = agent
        if agent.last is not None:
            agent.send(agent.last)
        else:
            self._tell.moved()

    def _error(self, request: Request) -> None:
        agent = self._identified(request)
        if agent is None:
            return
        said = request.header(b"lambda-extension-function-error-type")
        if not said:
            text = "Lambda-Extension-Function-Error-Type not found"
            _forbid(request, "Extension.MissingHeader", text)
            return
        early = request.path.endswith(b"init/error")
        refusal = agent.move(AgentPhase.INIT_ERROR if early else AgentPhase.EXIT_ERROR)
        if refusal is not None:
            refuse(request, refusal)
            return
        json_reply(request, 202, {"status": "OK"})
        kind = "Extension.InitError" if early else "Extension.ExitError"
        self._tell.failed(kind, f"the extension {agent.name} reported {said}")

    def _identified(self, request: Request) -> Agent | None:
        """Return who sent a request; answers it when that cannot be told."""
        said = request.header(b"lambda-extension-identifier")
        if not said:
            text = "Missing Lambda-Extension-Identifier header"
            _forbid(request, "Extension.MissingExtensionIdentifier", text)
            return None
        if not _id_matches(said):
            text = "Invalid Lambda-Extension-Identifier"
            _forbid(request, "Extension.InvalidExtensionIdentifier", text)
            return None
        for agent in self._agents.values():
            if agent.id == said.lower() and agent.phase is not AgentPhase.STARTED:
                return agent
        _forbid(request, "Extension.UnknownExtensionIdentifier", f"Unknown extension {said}")
        return None


def _wanted_events(body: bytes) -> list[str] | None:
    try:
        found = json.loads(body)
    except ValueError:
        return None
    if not isinstance(found, dict) or found.get("configurationKeys"):
        return None
    events = found.get("events") or []
    if not isinstance(events, list) or not all(isinstance(event, str) for event in events):
        return None
    return events


def _forbid(request: Request, kind: str, text: str) -> None:
    refuse(request, Refusal(403, kind, text))


def _unsupported(request: Request) -> None:
    kind, text = _UNSUPPORTED[request.path]
    json_reply(request, 202, {"errorMessage": text, "errorType": kind})
