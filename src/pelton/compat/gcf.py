"""Google Cloud Functions: `def f(request)` and `def f(cloud_event)`, with or without decorators.

Found by `builders/detect.py` and loaded by `dataplane/loader.py`. The request is `sdk/request.py`'s light one
unless user code uses Flask; then it is a real `flask.Request` inside its contexts (`sdk/flask_app.py`).
Source: `faas-conventions` contract, sections 4 and 11 (row 11). Decided where it is silent: an http function
that an event reaches gets it as a POST request with `ce-` headers; any answer below 400 accepts the event.
"""

from __future__ import annotations

import ast
import inspect
import os
from collections.abc import Callable
from typing import Any, Final

from pelton.errors import FunctionLoadError, ProtocolError
from pelton.model import cloudevent
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk.event import CloudEvent, as_request, attributes_of, json_or_raw
from pelton.sdk.flask_app import FlaskApp, open_app
from pelton.sdk.registry import SIGNATURES
from pelton.sdk.request import Request
from pelton.sdk.response import http_error_reply, to_reply
from pelton.sdk.source import find_function, import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "gcf"
# functions_framework itself is served by the shim. cloudevents 2 dropped `cloudevents.http`.
IMPLIED: Final = {"flask": "flask>=2.2,<4", "cloudevents": "cloudevents>=1.10,<2"}
FACTS: Final = Facts(
    title="Google Cloud Functions",
    looks_for="a function decorated by functions_framework, or main.py with def f(request), f(cloud_event) or "
    "f(data, context)",
    triggers="HTTP; CloudEvent; legacy background event",
    input="flask.Request; CloudEvent; (data, context); an object of the function's own class",
    output="Flask response value; ignored for events",
    address="the function, 0.0.0.0",
    protocol="HTTP",
    port="$PORT, 8080",
    code="main.py ($FUNCTION_SOURCE), $FUNCTION_TARGET, signature by decorator or $FUNCTION_SIGNATURE_TYPE",
    forms={
        "http": "flask.Request",
        "cloudevent": "CloudEvent",
        "timer": "CloudEvent",
        "record": "CloudEvent",
    },
    failure="500 with X-Google-Status: crash; 400 for what is no event",
    concurrency="many (THREADS)",
    implied="flask and cloudevents where imported",
)
_DECORATORS: Final = {"http": "http", "cloud_event": "cloudevent", "typed": "typed"}
_PARAMETERS: Final = {
    ("request",): "http",
    ("req",): "http",
    ("cloud_event",): "cloudevent",
    ("cloudevent",): "cloudevent",
    ("data", "context"): "event",
    ("event", "context"): "event",
}
_LAMBDA_NAME: Final = "lambda_handler"
_UNHANDLED: Final = frozenset({b"/robots.txt", b"/favicon.ico"})
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions that look like Google's: decorated, or with the usual parameters."""
    return tuple(
        m for source in tree.sources for m in _matches(source.module, source.name, entry=source.entry)
    )


def _matches(module: ast.Module, source: str, *, entry: bool) -> list[Match]:
    names = _decorator_names(module)
    own_import = bool(names)
    found = []
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for decorator in node.decorator_list:
            said = names.get(_dotted(decorator.func if isinstance(decorator, ast.Call) else decorator))
            if said:
                rule, signature, rank = f"decorated with functions_framework.{said}", _DECORATORS[said], 0
                break
        else:
            by_habit = _by_parameters(node) if entry or own_import else None
            if by_habit is None:
                continue
            rule, signature, rank = *by_habit, 1
        found.append(
            Match(
                target=node.name,
                signature=signature,
                rule=rule,
                row="11",
                rank=rank,
                source=source,
                line=node.lineno,
                own_import=own_import,
            )
        )
    return found


def _by_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, str] | None:
    if node.name.startswith("_") or node.args.vararg or node.args.kwarg or node.args.kwonlyargs:
        return None
    parameters = tuple(item.arg for item in [*node.args.posonlyargs, *node.args.args])
    if parameters == ("event", "context") and node.name == _LAMBDA_NAME:
        return None
    signature = _PARAMETERS.get(parameters)
    return (f"def {node.name}({', '.join(parameters)}) in the entry file", signature) if signature else None


def _decorator_names(tree: ast.Module) -> dict[str, str]:
    """Return how this file calls the decorators, e.g. {"ff.http": "http", "cloud_event": "cloud_event"}."""
    names: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Import):
            for item in node.names:
                if item.name in {"functions_framework", "functions_framework.aio"}:
                    prefix = item.asname or item.name
                    names.update({f"{prefix}.{name}": name for name in _DECORATORS})
        elif isinstance(node, ast.ImportFrom) and node.module in {
            "functions_framework",
            "functions_framework.aio",
        }:
            for item in node.names:
                if item.name in _DECORATORS:
                    names[item.asname or item.name] = item.name
                elif item.name == "aio":
                    names.update({f"{item.asname or 'aio'}.{name}": name for name in _DECORATORS})
    return names


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function.

    Raises:
        FunctionLoadError: No such function, or a signature type that is not supported yet.
    """
    _platform_environment(request)
    SIGNATURES.clear()
    module = import_source(request.source)
    target, habit = (request.target, "") if request.target else _only_candidate(request.source)
    function = find_function(module, target)
    signature = SIGNATURES.get(target) or request.signature or habit or "http"
    is_async = inspect.iscoroutinefunction(function)
    call: Callable[[Invocation], Any]
    if signature == "http":
        app = open_app(module.__name__, request.source.rpartition("/")[0], request.source)
        call = (_http_async if is_async else _http_sync)(function, app)
    elif signature == "cloudevent":
        make = _event_maker()
        call = (_event_async if is_async else _event_sync)(function, make)
    else:
        known = signature in {"event", "typed"}
        raise FunctionLoadError(
            f"signature type {signature!r} is {'not supported yet' if known else 'unknown'}",
            where=request.source,
            hint="Use http or cloudevent (decorate the function with @functions_framework.cloud_event).",
        )
    return LoadedFunction(
        call=call,
        sync=not is_async,
        on_error=_crash,
        signature=signature,
        target=target,
        unhandled_paths=_UNHANDLED,
    )


def _platform_environment(request: LoadRequest) -> None:
    """Set what the managed service sets, unless the function's own environment does."""
    if request.target:
        os.environ.setdefault("FUNCTION_TARGET", request.target)
    if request.signature:
        os.environ.setdefault("FUNCTION_SIGNATURE_TYPE", request.signature)
    name = str(request.context.get("name") or "")
    if name:
        os.environ.setdefault("K_SERVICE", name)
        os.environ.setdefault("K_CONFIGURATION", name)


def _only_candidate(source: str) -> tuple[str, str]:
    with open(source, "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
        matches = _matches(ast.parse(file.read()), source, entry=True)
    best = [match for match in matches if match.rank == min(m.rank for m in matches)]
    if len(best) == 1:
        return best[0].target, best[0].signature
    names = ", ".join(match.target for match in best)
    raise FunctionLoadError(
        f"several functions could be meant: {names}" if names else "no function takes a request or an event",
        where=source,
        hint="Choose one with --target, FUNC_NAME or FUNCTION_TARGET.",
    )


# --- http ---
def _http_sync(function: Callable[[Any], Any], app: FlaskApp | None) -> Callable[[Invocation], Reply]:
    def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        try:
            if app is not None:
                return app.call(invocation, function, None)
            return to_reply(function(Request(invocation)))
        except Exception as exc:
            reply = _said(exc)
            if reply is None:
                raise
            return reply

    return call


def _http_async(function: Callable[[Any], Any], app: FlaskApp | None) -> Callable[[Invocation], Any]:
    async def call(invocation: Invocation) -> Reply:
        if invocation.event is not None:
            invocation = as_request(invocation)
        try:
            if app is not None:
                return await app.call_async(invocation, function, None)
            return to_reply(await function(Request(invocation)))
        except Exception as exc:
            reply = _said(exc)
            if reply is None:
                raise
            return reply

    return call


def _said(exc: Exception) -> Reply | None:
    """Return the HTTP error that user code raised on purpose; None for everything else, which is a crash."""
    reply = http_error_reply(exc)
    if reply is not None and reply.status == 500:
        reply.headers.append((b"x-google-status", b"crash"))
    return reply


# --- cloudevent ---
def _event_maker() -> Callable[[dict[str, Any], Any], Any]:
    """Return the CloudEvent class: the SDK's where the function's environment has it, else our own."""
    try:
        from cloudevents.http import CloudEvent as Real
    except ImportError:
        return CloudEvent
    make: Callable[[dict[str, Any], Any], Any] = Real
    return make


def _event_sync(
    function: Callable[[Any], Any], make: Callable[[dict[str, Any], Any], Any]
) -> Callable[[Invocation], Reply]:
    def call(invocation: Invocation) -> Reply:
        event = _event(invocation, make)
        if isinstance(event, Reply):
            return event
        function(event)
        return Reply(200, [_HTML], b"OK")

    return call


def _event_async(
    function: Callable[[Any], Any], make: Callable[[dict[str, Any], Any], Any]
) -> Callable[[Invocation], Any]:
    async def call(invocation: Invocation) -> Reply:
        event = _event(invocation, make)
        if isinstance(event, Reply):
            return event
        await function(event)
        return Reply(200, [_HTML], b"OK")

    return call


def _event(invocation: Invocation, make: Callable[[dict[str, Any], Any], Any]) -> Any:
    """Return the CloudEvent of an invocation, or the Reply that refuses it."""
    if invocation.event is not None:
        return make(attributes_of(invocation.event, invocation.id), json_or_raw(invocation.event.data))
    if invocation.method != "POST":
        return Reply(405, [_TEXT, (b"allow", b"POST")], b"This function takes events: POST one.\n")
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in invocation.headers]
    try:
        found = cloudevent.from_headers(headers, invocation.body)
    except ProtocolError as exc:
        return Reply(400, [_TEXT], f"{exc.message}\n".encode())
    if found is None:
        return Reply(
            400,
            [_TEXT],
            b"This is no CloudEvent: send ce-id, ce-source, ce-type and ce-specversion headers, or a body of "
            b"Content-Type application/cloudevents+json.\n",
        )
    return make(found.attributes(), json_or_raw(found.data))


def _crash(exc: BaseException) -> Reply:
    text = "500 Internal Server Error: the function raised an exception; its log has the traceback.\n"
    return Reply(
        500, [_HTML, (b"x-google-status", b"crash")], text.encode(), error=f"{type(exc).__name__}: {exc}"
    )
