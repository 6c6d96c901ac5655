"""OpenFunction's user context: what a function gets as `context`, and what it says about the function itself.

Imported by user code through the shim `functions_framework.context.user_context`, and made per invocation by
`compat/openfunction.py`.
Source: `openfunction` contract, sections 8.3 and 10.1.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from pelton.errors import DeliveryError
from pelton.model.invocation import Delivered, Invocation, Output
from pelton.model.state import StateAnswer, StateCall
from pelton.sdk import flask_app
from pelton.sdk.event import BindingRequest, TopicEvent
from pelton.sdk.request import Request
from pelton.sdk.state import State

__all__ = [
    "Component",
    "DaprTrigger",
    "FunctionOut",
    "HTTPTrigger",
    "OutputResponse",
    "RuntimeContext",
    "UserContext",
]


class FunctionOut:
    """A function's outcome, for hooks and functions that set it; code is 200 or 500, 0 when not set."""

    __slots__ = ("code", "data", "error", "metadata")

    def __init__(
        self,
        code: int = 0,
        error: Any = None,
        data: Any = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.code = code
        self.error = error
        self.data = data
        self.metadata = {} if metadata is None else metadata

    def get_code(self) -> int:
        """Return the code."""
        return self.code

    def set_code(self, code: int) -> FunctionOut:
        """Set the code: 200 success, 500 failure."""
        self.code = code
        return self

    def get_error(self) -> Any:
        """Return the error, or None."""
        return self.error

    def set_error(self, error: Any) -> FunctionOut:
        """Set the error."""
        self.error = error
        return self

    def get_data(self) -> Any:
        """Return the data."""
        return self.data

    def set_data(self, data: Any) -> FunctionOut:
        """Set the data: body of an HTTP answer when the function returns None."""
        self.data = data
        return self

    def get_metadata(self) -> dict[str, Any]:
        """Return the metadata."""
        return self.metadata

    def set_metadata(self, metadata: dict[str, Any]) -> FunctionOut:
        """Set the metadata; `retry: "true"` asks for another delivery of a failed topic event."""
        self.metadata = metadata
        return self


@dataclass(slots=True, kw_only=True)
class Component:
    """An input, output or state of the function context."""

    component_name: str = ""
    component_type: str = ""
    topic: str = ""
    operation: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class DaprTrigger:
    """An event trigger of the function context."""

    name: str = ""
    component_type: str = ""
    topic: str = ""
    input_name: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class HTTPTrigger:
    """The HTTP trigger of the function context."""

    port: int | None = None


@dataclass(slots=True, kw_only=True)
class RuntimeContext:
    """The function context as attributes, made once per process.

    Attributes:
        context: The whole context as it came; does not count when two are compared.
        name, version: The function's.
        port: Where the function listens, 0 when nothing says it.
        http_trigger: None when there is none.
        dapr_triggers: Event triggers, may be empty.
        inputs, outputs, states: Name -> component, may be empty.
        pre_hooks, post_hooks: Hook names in order, without what stands for tracing.
        tracing: What is to be traced and where to, as it came; empty when nothing says it.
    """

    context: Mapping[str, Any] = field(default_factory=dict, compare=False)
    name: str = ""
    version: str = ""
    port: int = 0
    http_trigger: HTTPTrigger | None = None
    dapr_triggers: list[DaprTrigger] = field(default_factory=list)
    inputs: dict[str, Component] = field(default_factory=dict)
    outputs: dict[str, Component] = field(default_factory=dict)
    states: dict[str, Component] = field(default_factory=dict)
    pre_hooks: list[str] = field(default_factory=list)
    post_hooks: list[str] = field(default_factory=list)
    tracing: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Mapping[str, Any]) -> RuntimeContext:
        """Read a context in v1beta1, v1beta2 or merged form; unknown keys stay reachable in `context`.

        What only one form says is filled in from what the other has: v1beta1 has no triggers, its inputs are
        the event triggers of a function whose runtime is `Async`; v1beta2 has its inputs in the triggers.
        """
        port = _port(context.get("port")) or 0
        inputs = _components(context.get("inputs"))
        triggers = context.get("triggers")
        if isinstance(triggers, Mapping):
            http = _http(triggers.get("http"), port)
            dapr = [_dapr(item, inputs) for item in _objects(triggers.get("dapr"))]
        else:
            is_async = str(context.get("runtime") or "") == "Async"
            http = HTTPTrigger(port=port or None) if context.get("runtime") and not is_async else None
            dapr = [_from_input(name, item) for name, item in inputs.items()] if is_async else []
        for trigger in dapr:
            inputs.setdefault(trigger.input_name, _as_input(trigger))
        tracing = _object(context.get("tracing")) or _object(context.get("pluginsTracing"))
        return cls(
            context=context,
            name=str(context.get("name") or ""),
            version=str(context.get("version") or ""),
            port=port or (http.port if http is not None and http.port else 0),
            http_trigger=http,
            dapr_triggers=dapr,
            inputs=inputs,
            outputs=_components(context.get("outputs")),
            states=_components(context.get("states")),
            pre_hooks=_hooks(context, ("preHooks", "pre_hooks", "prePlugins"), tracing),
            post_hooks=_hooks(context, ("postHooks", "post_hooks", "postPlugins"), tracing),
            tracing=tracing,
        )

    def has_http_trigger(self) -> bool:
        """Tell whether HTTP requests reach the function."""
        return self.http_trigger is not None

    def get_http_trigger(self) -> HTTPTrigger | None:
        """Return the HTTP trigger, or None."""
        return self.http_trigger

    def get_dapr_triggers(self) -> list[DaprTrigger]:
        """Return the event triggers."""
        return self.dapr_triggers

    def get_outputs(self) -> dict[str, Component]:
        """Return the outputs by name."""
        return self.outputs


def _port(value: Any) -> int | None:
    return int(value) if str(value or "").isdigit() else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _objects(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _http(item: Any, port: int) -> HTTPTrigger | None:
    return HTTPTrigger(port=_port(item.get("port")) or port or None) if isinstance(item, Mapping) else None


def _dapr(item: Mapping[str, Any], inputs: Mapping[str, Component]) -> DaprTrigger:
    name = str(item.get("name") or "")
    input_name = str(item.get("inputName") or name)
    known = inputs.get(input_name) or Component()
    return DaprTrigger(
        name=name,
        component_type=str(item.get("type") or known.component_type),
        topic=str(item.get("topic") or known.topic),
        input_name=input_name,
        metadata={**known.metadata, **_texts(item.get("metadata"))},
    )


def _from_input(name: str, item: Component) -> DaprTrigger:
    return DaprTrigger(
        name=item.component_name,
        component_type=item.component_type,
        topic=item.topic,
        input_name=name,
        metadata=dict(item.metadata),
    )


def _as_input(trigger: DaprTrigger) -> Component:
    return Component(
        component_name=trigger.name,
        component_type=trigger.component_type,
        topic=trigger.topic,
        metadata=dict(trigger.metadata),
    )


def _hooks(context: Mapping[str, Any], keys: tuple[str, ...], tracing: Mapping[str, Any]) -> list[str]:
    """Return the first list that is there; older contexts name the tracing provider among the plugins."""
    found: Any = next((context[key] for key in keys if context.get(key)), [])
    provider = str(_object(tracing.get("provider")).get("name") or "") if tracing.get("enabled") else ""
    names = [found] if isinstance(found, str) else [str(name) for name in found]
    return [name for name in names if name != provider]


def _texts(items: Any) -> dict[str, str]:
    return {str(key): str(value) for key, value in _object(items).items()}


def _components(items: Any) -> dict[str, Component]:
    if not isinstance(items, Mapping):
        return {}
    found = {}
    for name, item in items.items():
        if not isinstance(item, Mapping):
            continue
        kind = str(item.get("componentType") or "")
        # v1beta1 has the topic of a pub/sub component in `uri`; for bindings that is the component's name.
        uri = str(item.get("uri") or "") if kind.startswith("pubsub.") else ""
        found[str(name)] = Component(
            component_name=str(item.get("componentName") or name),
            component_type=kind,
            topic=str(item.get("topic") or uri),
            operation=str(item.get("operation") or ""),
            metadata=_texts(item.get("metadata")),
        )
    return found


class Tracing(Protocol):
    """What follows the outputs of one invocation; see `sdk/tracing.py`."""

    def sending(self, output: Output, component: Component) -> Any:
        """Begin an output and put the trace into it."""
        ...

    def sent(self, span: Any, error: str = "") -> None:
        """End it."""
        ...


class OutputResponse:
    """What an output's destination answered: `.data`, `.text()`, `.metadata`."""

    __slots__ = ("data", "metadata")

    def __init__(self, delivered: Delivered) -> None:
        self.data = delivered.data
        self.metadata = delivered.metadata

    def text(self) -> str:
        """Return the answer as UTF-8 text."""
        return self.data.decode()

    @property
    def binding_metadata(self) -> dict[str, str]:
        """The same as `metadata`."""
        return self.metadata

    headers = binding_metadata


class UserContext:
    """What an OpenFunction function gets as `context`, one per invocation.

    Args:
        runtime_context: What the platform says about the function.
        binding_request, topic_event, http_request: What caused the invocation; tests of functions set one.
        logger: The function's logger.

    Functions and hooks may set `out`.
    """

    # What most invocations never touch is set when there is something to set: one is made per event.
    _invocation: Invocation | None = None
    _send: Callable[[Output], Delivered] | None = None
    _send_async: Callable[[Output], Awaitable[Delivered]] | None = None
    _state_call: Callable[[StateCall], StateAnswer] | None = None
    _state_async: Callable[[StateCall], Awaitable[StateAnswer]] | None = None
    _binding_request: BindingRequest | None = None
    _topic_event: TopicEvent | None = None
    _http_request: Any = None
    _trace: Tracing | None = None
    _out: FunctionOut | None = None
    _failed_outputs: list[str] | None = None
    _state: State | None = None

    def __init__(
        self,
        runtime_context: RuntimeContext | None = None,
        binding_request: BindingRequest | None = None,
        topic_event: TopicEvent | None = None,
        http_request: Any = None,
        logger: logging.Logger | None = None,
    ) -> None:
        self.runtime_context = runtime_context if runtime_context is not None else RuntimeContext()
        self.logger = logger if logger is not None else logging.getLogger("function")
        self._binding_request = binding_request
        self._topic_event = topic_event
        self._http_request = http_request

    @classmethod
    def of_function(
        cls,
        runtime_context: RuntimeContext,
        logger: logging.Logger,
        *,
        send: Callable[[Output], Delivered] | None = None,
        send_async: Callable[[Output], Awaitable[Delivered]] | None = None,
        state: Callable[[StateCall], StateAnswer] | None = None,
        state_async: Callable[[StateCall], Awaitable[StateAnswer]] | None = None,
    ) -> Callable[[Invocation], UserContext]:
        """Return what makes the contexts of one function: a class that has what all of them share.

        Args:
            runtime_context: What the platform says about the function.
            logger: The function's.
            send: Hands an Output to the platform and waits for the answer.
            send_async: The same for coroutine functions.
            state: Uses a state store and waits for its answer.
            state_async: The same for coroutine functions.
        """

        def begin(self: UserContext, invocation: Invocation) -> None:
            self._invocation = invocation

        shared = {
            "__init__": begin,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__,
            "runtime_context": runtime_context,
            "logger": logger,
            # static, so that plain functions do not become methods
            "_send": send and staticmethod(send),
            "_send_async": send_async and staticmethod(send_async),
            "_state_call": state and staticmethod(state),
            "_state_async": state_async and staticmethod(state_async),
        }
        return type(cls.__name__, (cls,), shared)

    @property
    def out(self) -> FunctionOut:
        """The outcome."""
        out = self._out
        if out is None:
            out = self._out = FunctionOut()
        return out

    @out.setter
    def out(self, value: FunctionOut) -> None:
        self._out = value

    @property
    def failed_outputs(self) -> list[str]:
        """One line for each `send` that was not accepted, in order."""
        found = self._failed_outputs
        if found is None:
            found = self._failed_outputs = []
        return found

    def get_http_request(self) -> Any:
        """Return the HTTP request, None for events: a `flask.Request` where Flask is, else a light one."""
        if self._http_request is None and self._invocation is not None and self._invocation.event is None:
            self._http_request = flask_app.plain_request(self._invocation) or Request(self._invocation)
        return self._http_request

    def get_binding_request(self) -> BindingRequest | None:
        """Return what the input binding delivered (`.text()`, `.data`, `.metadata`), or None."""
        if self._binding_request is None and self._invocation is not None:
            event = self._invocation.event
            if event is not None and event.kind == "binding":
                self._binding_request = BindingRequest(event.data, event.metadata)
        return self._binding_request

    def get_topic_event(self) -> TopicEvent | None:
        """Return the topic's event (`.Data()`, `.EventID()`, ...), or None."""
        if self._topic_event is None and self._invocation is not None:
            event = self._invocation.event
            if event is not None and event.kind == "topic":
                self._topic_event = TopicEvent(event, self._invocation.id)
        return self._topic_event

    @property
    def state(self) -> State:
        """The function's state stores; in coroutine functions what its methods return is awaited."""
        if self._state is None:
            self._state = State(self.runtime_context.states, self._state_call, self._state_async)
        return self._state

    @property
    def dapr_client(self) -> Any:
        """A client of a Dapr sidecar, made on first use, one per process.

        Raises:
            RuntimeError: No sidecar is there: `context.send` and `context.state` need none.
        """
        return _dapr_client()

    def send(self, output_name: str, data: Any) -> Any:
        """Send data to an output and wait until its destination took it.

        Args:
            output_name: Name of the output; when the function has only one, any name means that one.
            data: Text or bytes for bindings; for topics whatever JSON can hold. Bytes go to a topic as they
                are.

        Returns:
            The answer (`.data`, `.text()`, `.metadata`), or the text `An error occurred: ...` as the original
            does; for events such a failure also fails the invocation, so that the event comes back.

        Raises:
            RuntimeError: Called in a coroutine function, which it would block; use `send_async` there.
        """
        if self._send is None and self._send_async is not None:
            raise RuntimeError(
                "context.send would block the event loop here: use `await context.send_async(...)`"
            )
        try:
            if self._send is None:
                raise DeliveryError("this context belongs to no platform")
            output, component = self._output(output_name, data)
            if self._trace is None:
                return self._accepted(self._send(output))
            span = self._trace.sending(output, component)
            answer = None
            try:
                answer = self._send(output)
            finally:
                self._trace.sent(span, _why(answer))
            return self._accepted(answer)
        except Exception as exc:  # the original's promise: errors are returned, whatever they are
            return self._failed(output_name, exc)

    async def send_async(self, output_name: str, data: Any) -> Any:
        """Do what `send` does, in coroutine functions."""
        try:
            if self._send_async is None:
                raise DeliveryError("this context belongs to no platform")
            output, component = self._output(output_name, data)
            if self._trace is None:
                return self._accepted(await self._send_async(output))
            span = self._trace.sending(output, component)
            answer = None
            try:
                answer = await self._send_async(output)
            finally:
                self._trace.sent(span, _why(answer))
            return self._accepted(answer)
        except Exception as exc:  # as in `send`
            return self._failed(output_name, exc)

    def _output(self, name: str, data: Any) -> tuple[Output, Component]:
        outputs = self.runtime_context.outputs
        if not outputs:
            raise DeliveryError("No outputs found.")
        if name not in outputs:
            if len(outputs) > 1:
                raise DeliveryError(f"No output named {name} found; there are {', '.join(sorted(outputs))}.")
            name = next(iter(outputs))
        component = outputs[name]
        is_topic = component.component_type.startswith("pubsub.") or (
            not component.component_type and bool(component.topic)
        )
        payload, content_type = _encode(data, as_json=is_topic)
        return Output(name=name, data=payload, content_type=content_type), component

    def _accepted(self, delivered: Delivered) -> OutputResponse:
        if not delivered.ok:
            raise DeliveryError(delivered.error or "not accepted")
        return OutputResponse(delivered)

    def _failed(self, name: str, exc: Exception) -> str:
        reason = exc.message if isinstance(exc, DeliveryError) else str(exc) or type(exc).__name__
        self.failed_outputs.append(f"output {name}: {reason}")
        self.logger.error("output %s was not accepted: %s", name, reason)
        return f"An error occurred: {reason}"


def _encode(data: Any, *, as_json: bool) -> tuple[bytes, str]:
    """Return payload and media type: JSON for topics (even text, as in the original), else as it is."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data), "application/octet-stream"
    if as_json or not isinstance(data, str):
        return json.dumps(data).encode(), "application/json"
    return data.encode(), "text/plain; charset=utf-8"


def _why(answer: Delivered | None) -> str:
    if answer is None:
        return "it was not handed over"
    return "" if answer.ok else answer.error or "not accepted"


_clients: Final[list[Any]] = []


def _dapr_client() -> Any:
    if _clients:
        return _clients[0]
    if not os.environ.get("DAPR_GRPC_PORT"):
        raise RuntimeError(
            "context.dapr_client needs a Dapr sidecar: DAPR_GRPC_PORT is not set, and Pelton's own Dapr API "
            "comes with a later version; context.send and context.state work without"
        )
    try:
        from dapr.clients import DaprClient
    except ImportError as exc:
        raise RuntimeError(
            "context.dapr_client needs dapr in requirements.txt; context.send and context.state work without"
        ) from exc
    _clients.append(DaprClient())
    return _clients[0]
