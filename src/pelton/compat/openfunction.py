"""OpenFunction Python: `def f(context: UserContext)`, for HTTP requests and Dapr triggers alike.

Found by `builders/detect.py` and loaded by `dataplane/loader.py`; what user code touches is in
`sdk/context.py`. Source: `openfunction` contract, section 10.1, hooks and outcome codes by 10.2. Decided
where the original is silent: None answers 200 with an empty body; both trigger kinds work at once; `async
def` is accepted (`await context.send_async`); an output that was not accepted fails an event's invocation, so
that the event comes back.
"""

from __future__ import annotations

import ast
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk.context import RuntimeContext, UserContext
from pelton.sdk.flask_app import FlaskApp, find_flask, open_app
from pelton.sdk.hooks import Hooks
from pelton.sdk.response import http_error_reply, to_reply
from pelton.sdk.source import find_function, import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "openfunction"
IMPLIED: Final = {"flask": "flask>=2.2,<4"}
FACTS: Final = Facts(
    title="OpenFunction",
    looks_for="a function whose only parameter is annotated UserContext",
    triggers="HTTP; Dapr bindings and topics",
    input="a UserContext: HTTP request, binding request or topic event",
    output="Flask response value; context.send to named outputs",
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
    app = open_app(module.__name__, request.source.rpartition("/")[0], request.source)
    find_flask()  # get_http_request gives Flask's wherever it is: imported now, so that templates hold it
    is_async = inspect.iscoroutinefunction(function)
    call = (_async_call if is_async else _sync_call)(function, runtime, logger, hooks, app, request)
    return LoadedFunction(
        call=call,
        sync=not is_async,
        blocking=bool(runtime.outputs),
        on_error=_crash,
        signature=NAME,
        target=target,
        unhandled_paths=_UNHANDLED,
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


def _sync_call(
    function: Callable[[UserContext], Any],
    runtime: RuntimeContext,
    logger: logging.Logger,
    hooks: Hooks,
    app: FlaskApp | None,
    request: LoadRequest,
) -> Callable[[Invocation], Reply]:
    send = request.send

    def call(invocation: Invocation) -> Reply:
        context = UserContext(runtime, None, None, None, logger, invocation=invocation, send=send)
        instances = hooks.fresh() if hooks else None
        try:
            if instances is not None:
                hooks.before(context, instances)
            if app is not None and invocation.event is None:

                def with_request(flask_request: Any) -> Any:
                    context._http_request = flask_request
                    return _none_to_out(function(context), context)

                reply = app.call(invocation, with_request, b"")
            else:
                reply = _reply(function(context), context, invocation)
        except Exception as exc:
            answer = _raised(exc, context, invocation)
            if instances is not None:
                hooks.after(context, instances)
            if answer is None:
                raise
            return answer
        if instances is not None:
            _note_success(context, reply)
            hooks.after(context, instances)
        return reply

    return call


def _async_call(
    function: Callable[[UserContext], Any],
    runtime: RuntimeContext,
    logger: logging.Logger,
    hooks: Hooks,
    app: FlaskApp | None,
    request: LoadRequest,
) -> Callable[[Invocation], Any]:
    send_async = request.send_async

    async def call(invocation: Invocation) -> Reply:
        context = UserContext(runtime, None, None, None, logger, invocation=invocation, send_async=send_async)
        instances = hooks.fresh() if hooks else None
        try:
            if instances is not None:
                hooks.before(context, instances)
            if app is not None and invocation.event is None:

                async def with_request(flask_request: Any) -> Any:
                    context._http_request = flask_request
                    return _none_to_out(await function(context), context)

                reply = await app.call_async(invocation, with_request, b"")
            else:
                reply = _reply(await function(context), context, invocation)
        except Exception as exc:
            answer = _raised(exc, context, invocation)
            if instances is not None:
                hooks.after(context, instances)
            if answer is None:
                raise
            return answer
        if instances is not None:
            _note_success(context, reply)
            hooks.after(context, instances)
        return reply

    return call


def _reply(value: Any, context: UserContext, invocation: Invocation) -> Reply:
    if invocation.event is None:
        value = _none_to_out(value, context)
        if value is None:
            return Reply(200)
        return value if isinstance(value, Reply) else to_reply(value)
    if context.failed_outputs:
        return Reply(500, error="; ".join(context.failed_outputs))
    out = context.out
    if out.code >= 400:
        # By the Go model: a topic's event comes back only when asked for, a binding's always.
        again = invocation.event.kind != "topic" or str(out.metadata.get("retry", "")).lower() == "true"
        return Reply(500, retry=again, error=str(out.error or f"the function set code {out.code}"))
    return Reply(200)


def _none_to_out(value: Any, context: UserContext) -> Any:
    """Answer with `context.out` where the function returned None and set a code there (Go model)."""
    out = context.out
    if value is not None or not out.code:
        return value
    failed = out.code >= 400
    reply = to_reply(out.data if out.data not in {None, ""} or not failed else str(out.error or ""))
    reply.status = out.code
    reply.headers.append((_STATUS, b"error" if failed else b"success"))
    return reply


def _raised(exc: Exception, context: UserContext, invocation: Invocation) -> Reply | None:
    """Note a failure for the hooks; return the answer that the exception stands for, None for a crash."""
    context.out.code = 500
    context.out.error = exc
    return http_error_reply(exc) if invocation.event is None else None


def _note_success(context: UserContext, reply: Reply) -> None:
    """Let post hooks see the outcome, unless the function set it itself."""
    if not context.out.code:
        context.out.code = 200 if reply.status < 400 else 500
        if isinstance(reply.body, bytes) and not context.out.data:
            context.out.data = reply.body


def _crash(exc: BaseException) -> Reply:
    text = "Internal Server Error: the function raised an exception; its log has the traceback.\n"
    return Reply(500, [_TEXT, (_STATUS, b"crash")], text.encode(), error=f"{type(exc).__name__}: {exc}")
