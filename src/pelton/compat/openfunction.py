"""OpenFunction Python: `def f(context: UserContext)`, for HTTP requests and Dapr triggers alike.

Found by `builders/detect.py` and loaded by `dataplane/loader.py`; what user code touches is in
`sdk/context.py`. Source: `openfunction` contract, section 10.1; hooks, outcome codes and tracing, which the
Python original only reads, by 10.2, `context.state` by 10.3. Decided where these are silent: None answers 200
with an empty body; both trigger kinds work at once; `async def` is accepted (`await context.send_async`); an
output that was not accepted fails an event's invocation, so that the event comes back.
"""

from __future__ import annotations

import ast
import inspect
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Event, Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks
from pelton.sdk.context import FunctionOut, RuntimeContext, UserContext
from pelton.sdk.flask_app import FlaskApp, find_flask, open_app
from pelton.sdk.hooks import Hooks
from pelton.sdk.inner_event import may_be_wrapped, unwrap
from pelton.sdk.response import http_error_reply, to_reply
from pelton.sdk.source import find_function, import_source

if TYPE_CHECKING:
    from pelton.sdk.tracing import Trace, Tracer

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "openfunction"
IMPLIED: Final = {"flask": "flask>=2.2,<4"}
FACTS: Final = Facts(
    title="OpenFunction",
    looks_for="a function whose only parameter is annotated UserContext",
    triggers="HTTP; Dapr bindings and topics",
    input="a UserContext: HTTP request, binding request or topic event",
    output="Flask response value; context.send to named outputs; context.state",
    address="the function, 0.0.0.0",
    protocol="HTTP (Flask); gRPC AppCallback for Dapr triggers",
    port="trigger port, else the context's, else 8080; Dapr 50051",
    code="main.py, `def f(context: UserContext)`",
    forms={
        "http": "context.get_http_request()",
        "cloudevent": "context.get_http_request()",
        "timer": "context.get_binding_request()",
        "record": "context.get_topic_event()",
    },
    failure="500 with X-OpenFunction-Status: crash",
    concurrency="many",
    implied="flask where imported",
)
_STATUS: Final = b"x-openfunction-status"
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HANDLED: Final = Reply(200)
"""Of every event that ended well: who makes no answer for a client only looks at it."""
_UNHANDLED: Final = frozenset({b"/robots.txt", b"/favicon.ico"})


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions whose only parameter is annotated `UserContext`."""
    return tuple(match for source in tree.sources for match in _matches(source.module, source.name))


def _matches(module: ast.Module, source: str) -> list[Match]:
    found = []
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        if len(parameters) == 1 and _says_user_context(parameters[0].annotation):
            found.append(
                Match(
                    target=node.name,
                    signature=NAME,
                    rule=f"its parameter {parameters[0].arg} is a UserContext",
                    row="openfunction",
                    stage="object",
                    source=source,
                    line=node.lineno,
                )
            )
    return found


def _says_user_context(annotation: ast.expr | None) -> bool:
    if isinstance(annotation, ast.Name):
        return annotation.id == "UserContext"
    if isinstance(annotation, ast.Attribute):
        return annotation.attr == "UserContext"
    return isinstance(annotation, ast.Constant) and str(annotation.value).rpartition(".")[2] == "UserContext"


def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function.

    Raises:
        FunctionLoadError: No such function, or its signature is not `(context: UserContext)`.
    """
    module = import_source(request.source)
    target = request.target or _only_candidate(request.source)
    function = find_function(module, target)
    _check_signature(function, request.source)
    runtime = RuntimeContext.of(request.context)
    logger = _logger(runtime.name or target)
    hooks = Hooks(runtime.pre_hooks, runtime.post_hooks, module, logger)
    tracer = _tracer(runtime, request, target, logger)
    app = open_app(module.__name__, request.source.rpartition("/")[0], request.source)
    find_flask()  # get_http_request gives Flask's wherever it is: imported now, so that templates hold it
    is_async = inspect.iscoroutinefunction(function)
    around = _Around(hooks, tracer) if hooks or tracer is not None else None
    call = (_async_call if is_async else _sync_call)(function, runtime, logger, around, app, request)
    return LoadedFunction(
        call=call,
        sync=not is_async,
        blocking=bool(runtime.outputs or runtime.states),
        on_error=_crash,
        signature=NAME,
        target=target,
        start=tracer.exporter.start if tracer is not None else None,
        stop=tracer.exporter.stop if tracer is not None else None,
        unhandled_paths=_UNHANDLED,
    )


def _tracer(
    runtime: RuntimeContext, request: LoadRequest, target: str, logger: logging.Logger
) -> Tracer | None:
    if not runtime.tracing.get("enabled"):
        return None
    from pelton.sdk.tracing import Tracer, input_names  # untraced functions do not pay for it

    return Tracer(
        runtime.tracing,
        function=runtime.name or request.name or target,
        namespace=request.namespace,
        inputs=input_names(runtime.dapr_triggers),
        logger=logger,
    )


def _only_candidate(source: str) -> str:
    with open(source, "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
        matches = _matches(ast.parse(file.read()), source)
    if len(matches) == 1:
        return matches[0].target
    names = ", ".join(match.target for match in matches)
    raise FunctionLoadError(
        f"several functions take a UserContext: {names}" if names else "no function takes a UserContext",
        where=source,
        hint="Choose one with --target or FUNC_NAME."
        if names
        else "Write `def f(context: UserContext)` or set --convention.",
    )


def _check_signature(function: Callable[..., Any], source: str) -> None:
    """Refuse what the original refuses, except a return annotation, which harms nobody."""
    parameters = list(inspect.signature(function).parameters.values())
    annotation = parameters[0].annotation if len(parameters) == 1 else None
    named = annotation is UserContext or (
        isinstance(annotation, str) and annotation.rpartition(".")[2] == "UserContext"
    )
    if len(parameters) != 1 or parameters[0].name != "context" or not named:
        raise FunctionLoadError(
            f"{function.__name__}{inspect.signature(function)} is not an OpenFunction function",
            where=f"{source}:{function.__code__.co_firstlineno}",
            hint=f"Write `def {function.__name__}(context: UserContext)`: that name and that annotation.",
        )


class _Stderr(logging.Handler):
    """Write to whatever sys.stderr is now: the worker replaces it after loading."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:
            self.handleError(record)


def _logger(name: str) -> logging.Logger:
    """Return the function's logger: INFO to stderr, unless user code configured logging itself."""
    logger = logging.getLogger(f"function.{name}")
    if not logging.getLogger().handlers and not logger.handlers:
        handler = _Stderr()
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    return logger


class _Opened:
    """What surrounds one invocation: its hooks' instances and its trace."""

    __slots__ = ("instances", "trace")

    def __init__(self, instances: dict[str, Any], trace: Trace | None) -> None:
        self.instances = instances
        self.trace = trace


class _Around:
    """Hooks and tracing; the trace lies within the hooks, which may send along with it."""

    def __init__(self, hooks: Hooks, tracer: Tracer | None) -> None:
        self._hooks = hooks
        self._tracer = tracer
        self.skywalking = tracer is not None and tracer.skywalking

    def open(self, context: UserContext, invocation: Invocation) -> _Opened:
        trace = self._tracer.begin(invocation) if self._tracer is not None else None
        context._trace = trace
        return _Opened(self._hooks.fresh(), trace)

    def before(self, context: UserContext, opened: _Opened) -> None:
        self._hooks.before(context, opened.instances)
        if opened.trace is not None:
            opened.trace.enter()

    async def before_async(self, context: UserContext, opened: _Opened) -> None:
        await self._hooks.before_async(context, opened.instances)
        if opened.trace is not None:
            opened.trace.enter()

    def after(self, context: UserContext, opened: _Opened) -> None:
        self._leave(context, opened)
        self._hooks.after(context, opened.instances)

    async def after_async(self, context: UserContext, opened: _Opened) -> None:
        self._leave(context, opened)
        await self._hooks.after_async(context, opened.instances)

    def _leave(self, context: UserContext, opened: _Opened) -> None:
        if opened.trace is not None:
            out = context.out
            opened.trace.leave(str(out.error or f"code {out.code}") if out.code >= 400 else "")

    def close(self, opened: _Opened) -> None:
        if opened.trace is not None:
            opened.trace.close()


def _sync_call(
    function: Callable[[UserContext], Any],
    runtime: RuntimeContext,
    logger: logging.Logger,
    around: _Around | None,
    app: FlaskApp | None,
    request: LoadRequest,
) -> Callable[[Invocation], Reply]:
    context_of = UserContext.of_function(runtime, logger, send=request.send, state=request.state)
    any_event = around is not None and around.skywalking

    def work(invocation: Invocation, context: UserContext) -> Reply:
        if invocation.event is not None:
            return _outcome(function(context), context, invocation.event)
        if app is None:
            return _answer(function(context), context)

        def with_request(flask_request: Any) -> Any:
            context._http_request = flask_request
            return _none_to_out(function(context), context)

        return app.call(invocation, with_request, b"")

    def call(invocation: Invocation) -> Reply:
        event = invocation.event
        if event is not None and may_be_wrapped(event):
            _unwrap(invocation, event, any_event)
        context = context_of(invocation)
        if around is None:
            try:
                return work(invocation, context)
            except Exception as exc:
                return _said(exc, invocation)
        opened = around.open(context, invocation)
        try:
            around.before(context, opened)
            try:
                reply = work(invocation, context)
            except Exception as exc:
                _note_failure(exc, context)
                around.after(context, opened)
                return _said(exc, invocation)
            _note_success(context, reply)
            around.after(context, opened)
            return reply
        finally:
            around.close(opened)

    return call


def _async_call(
    function: Callable[[UserContext], Any],
    runtime: RuntimeContext,
    logger: logging.Logger,
    around: _Around | None,
    app: FlaskApp | None,
    request: LoadRequest,
) -> Callable[[Invocation], Any]:
    context_of = UserContext.of_function(
        runtime, logger, send_async=request.send_async, state_async=request.state_async
    )
    any_event = around is not None and around.skywalking

    async def work(invocation: Invocation, context: UserContext) -> Reply:
        if invocation.event is not None:
            return _outcome(await function(context), context, invocation.event)
        if app is None:
            return _answer(await function(context), context)

        async def with_request(flask_request: Any) -> Any:
            context._http_request = flask_request
            return _none_to_out(await function(context), context)

        return await app.call_async(invocation, with_request, b"")

    async def call(invocation: Invocation) -> Reply:
        event = invocation.event
        if event is not None and may_be_wrapped(event):
            _unwrap(invocation, event, any_event)
        context = context_of(invocation)
        if around is None:
            try:
                return await work(invocation, context)
            except Exception as exc:
                return _said(exc, invocation)
        opened = around.open(context, invocation)
        try:
            await around.before_async(context, opened)
            try:
                reply = await work(invocation, context)
            except Exception as exc:
                _note_failure(exc, context)
                await around.after_async(context, opened)
                return _said(exc, invocation)
            _note_success(context, reply)
            await around.after_async(context, opened)
            return reply
        finally:
            around.close(opened)

    return call


def _unwrap(invocation: Invocation, event: Event, any_event: bool) -> None:
    """Take off what traced functions put around their payloads, whether this one is traced or not."""
    if event.kind == "deferred":
        return
    found, carried = unwrap(event, any_event=any_event)
    if found is not event:
        # Trace headers travelled inside; a broker's own metadata come first.
        found.metadata = {**carried, **event.metadata}
        invocation.event, invocation.body = found, found.data


def _answer(value: Any, context: UserContext) -> Reply:
    """Return what a request is answered."""
    value = _none_to_out(value, context)
    if value is None:
        return Reply(200)
    return value if isinstance(value, Reply) else to_reply(value)


def _outcome(value: Any, context: UserContext, event: Event) -> Reply:
    """Return how an event ended."""
    if value is not None and isinstance(value, FunctionOut):
        context.out = value
    if context._failed_outputs:
        return Reply(500, error="; ".join(context.failed_outputs))
    out = context._out
    if out is not None and out.code >= 400:
        # By the Go model: a topic's event comes back only when asked for, a binding's always.
        again = event.kind != "topic" or str(out.metadata.get("retry", "")).lower() == "true"
        return Reply(500, retry=again, error=str(out.error or f"the function set code {out.code}"))
    return _HANDLED


def _none_to_out(value: Any, context: UserContext) -> Any:
    """Answer with `context.out` where the function returned that, or None with a code set (Go model)."""
    if isinstance(value, FunctionOut):
        context.out, value = value, None
    out = context.out
    if value is not None or not out.code:
        return value
    failed = out.code >= 400
    reply = to_reply(out.data if out.data not in {None, ""} or not failed else str(out.error or ""))
    reply.status = out.code
    reply.headers.append((_STATUS, b"error" if failed else b"success"))
    return reply


def _note_failure(exc: Exception, context: UserContext) -> None:
    context.out.code = 500
    context.out.error = exc


def _said(exc: Exception, invocation: Invocation) -> Reply:
    """Return the HTTP answer that an exception stands for; raise it again when it is a crash."""
    answer = http_error_reply(exc) if invocation.event is None else None
    if answer is None:
        raise exc
    return answer


def _note_success(context: UserContext, reply: Reply) -> None:
    """Let post hooks see the outcome, unless the function set it itself."""
    if not context.out.code:
        context.out.code = 200 if reply.status < 400 else 500
        if reply.error and not context.out.error:
            context.out.error = reply.error
        if isinstance(reply.body, bytes) and not context.out.data:
            context.out.data = reply.body


def _crash(exc: BaseException) -> Reply:
    text = "Internal Server Error: the function raised an exception; its log has the traceback.\n"
    return Reply(500, [_TEXT, (_STATUS, b"crash")], text.encode(), error=tracebacks.reason(exc))
