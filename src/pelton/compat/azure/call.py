"""One call of a function as steps: fetch inputs, call user code, send outputs; and the two ways to take them.

The steps are a generator that yields what has to be done (`Call`, `Output`) and is sent what came of it, so
that functions on threads (`run_sync`) and on the loop (`run_async`) share every rule. Used by `serve.py`.
Source: `faas-conventions` contract, section 3.1 (context, Out, $return).
"""

from __future__ import annotations

import contextvars
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pelton.compat.azure.app import RETURN, Binding, Function
from pelton.compat.azure.convert import Library, accepted, fetch, fetched
from pelton.model.invocation import Delivered, Invocation, Output

__all__ = ["Call", "Steps", "context_class", "max_retries", "run_async", "run_sync", "steps"]


@dataclass(slots=True)
class Call:
    """Ask for user code.

    Attributes:
        function: Which one.
        arguments: Parameter -> value.
    """

    function: Function
    arguments: dict[str, Any]


Steps = Generator[Any, Any, Any]
"""Yields what to do, is sent the function's result or a Delivered; returns the HTTP answer, None for none."""


def steps(library: Library, function: Function, value: Any, lookup: Mapping[str, Any], context: Any) -> Steps:
    """Take one call.

    Args:
        library: Converters.
        function: What to call.
        value: Object for its trigger parameter.
        lookup: Name -> value for binding expressions.
        context: Makes its context, called only if it takes one.
    """
    arguments = {function.trigger.name: value}
    outs: list[tuple[Binding, Any]] = []
    for binding in function.bindings:
        if binding is function.trigger or binding.name == RETURN:
            continue
        if binding.out:
            out = library.out()
            outs.append((binding, out))
            arguments[binding.name] = out
        else:
            delivered = yield fetch(binding, lookup)
            datum = fetched(binding, accepted(function.name, binding.name, delivered))
            arguments[binding.name] = library.decode(binding, datum, {})
    if function.context:
        arguments["context"] = context()
    result = yield Call(function, arguments)
    values = [(binding, out.value) for binding, out in outs]
    values += [(binding, result) for binding in function.bindings if binding.name == RETURN]
    answer = None
    for binding, written in values:
        if binding.type == "http":
            answer = written if written is not None else answer
            continue
        for output in library.encode(function.name, binding, written, lookup):
            accepted(function.name, binding.name, (yield output))
    return answer


def run_sync(taken: Steps, send: Callable[[Output], Delivered]) -> Any:
    """Take the steps of a plain function in this thread."""
    result: Any = None
    while True:
        try:
            step = taken.send(result)
        except StopIteration as stop:
            return stop.value
        if type(step) is Call:
            result = _in_this_thread(step)
        else:
            assert isinstance(step, Output)  # noqa: S101 -- there are two kinds of steps
            result = send(step)


async def run_async(
    taken: Steps,
    send: Callable[[Output], Awaitable[Delivered]],
    threaded: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Any:
    """Take the steps on the loop; plain functions run on a thread.

    Args:
        taken: The steps.
        send: Hands over an output.
        threaded: Runs a callable on a thread.
    """
    result: Any = None
    while True:
        try:
            step = taken.send(result)
        except StopIteration as stop:
            return stop.value
        if type(step) is Call:
            user = step.function.user
            assert user is not None  # noqa: S101 -- only custom handlers have none
            if step.function.is_async:
                result = await user(**step.arguments)
            else:
                result = await threaded(partial(contextvars.copy_context().run, _in_this_thread, step))
        else:
            assert isinstance(step, Output)  # noqa: S101 -- as above
            result = await send(step)


def _in_this_thread(call: Call) -> Any:
    """Call a plain function, its invocation's id in the thread's storage, which its log lines may need."""
    user = call.function.user
    assert user is not None  # noqa: S101 -- only custom handlers have none
    if call.function.context:
        context = call.arguments["context"]
        context.thread_local_storage.invocation_id = context.invocation_id
    return user(**call.arguments)


def max_retries(function: Function) -> int | None:
    """Return how often a function is retried by its own policy: -1 without limit, None without a policy."""
    text = str(function.retry.get("maxRetryCount", "")).strip()
    return int(text) if text.lstrip("-").isdecimal() else None


def context_class(library: Library) -> Any:
    """Return a class of contexts made as `cls(function, invocation, attempt)`."""
    trace_base: Any = library.abstract.TraceContext
    retry_base: Any = library.abstract.RetryContext
    context_base: Any = library.abstract.Context

    class TraceContext(trace_base):  # type: ignore[misc]  # the library has no types here
        def __init__(self, parent: str, state: str) -> None:
            self._parent = parent
            self._state = state

        @property
        def trace_parent(self) -> str:
            return self._parent

        @property
        def trace_state(self) -> str:
            return self._state

        @property
        def attributes(self) -> dict[str, str]:
            return {}

    class RetryContext(retry_base):  # type: ignore[misc]  # as above
        def __init__(self, count: int, limit: int) -> None:
            self._count = count
            self._limit = limit

        @property
        def retry_count(self) -> int:
            return self._count

        @property
        def max_retry_count(self) -> int:
            return self._limit

        @property
        def exception(self) -> Any:
            return None

    class Context(context_base):  # type: ignore[misc]  # as above
        def __init__(self, function: Function, invocation: Invocation, attempt: int) -> None:
            self._function = function
            self._invocation = invocation
            self._attempt = attempt

        @property
        def invocation_id(self) -> str:
            return self._invocation.id

        @property
        def thread_local_storage(self) -> Any:
            return library.local

        @property
        def function_name(self) -> str:
            return self._function.name

        @property
        def function_directory(self) -> str:
            return self._function.directory

        @property
        def trace_context(self) -> Any:
            parent, state = (_trace(self._invocation, name) for name in ("traceparent", "tracestate"))
            return TraceContext(parent, state)

        @property
        def retry_context(self) -> Any:
            return RetryContext(self._attempt - 1, max_retries(self._function) or 0)

    return Context


def _trace(invocation: Invocation, name: str) -> str:
    if invocation.event is not None:
        found = invocation.event.attributes.get(name) or invocation.event.metadata.get(name)
        return str(found or "")
    return (invocation.header(name.encode()) or b"").decode("latin-1")
