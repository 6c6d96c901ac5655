"""Google Cloud Functions: http, event, cloudevent and typed functions, with or without decorators.

Found by `builders/detect.py` and loaded by `dataplane/loader.py`. The request is `sdk/request.py`'s light one
unless user code uses Flask; then it is a real `flask.Request` inside its contexts (`sdk/flask_app.py`). In
ASGI mode it is Starlette's (`asgi.py`). Signatures are in `http.py` and `events.py`, rules for source trees
in `detection.py`, execution ids and JSON output in `logs.py`.
Source: `faas-conventions` contract, sections 4 and 11 (row 11).
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
import typing
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from pelton.compat.gcf import detection, events, http, logs
from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Answer, Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk import registry, tracebacks
from pelton.sdk.event import CloudEvent
from pelton.sdk.flask_app import FlaskApp, open_app
from pelton.sdk.source import find_function, import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "gcf"
# functions_framework itself is served by the shim. cloudevents 2 dropped `cloudevents.http`.
IMPLIED: Final = {
    "flask": "flask>=2.2,<4",
    "cloudevents": "cloudevents>=1.10,<2",
    "starlette": "starlette>=0.37,<2",
    "google.cloud.functions": "functions-framework>=3.5,<4",
    "google.cloud.functions_v1": "functions-framework>=3.5,<4",
}
FACTS: Final = Facts(
    title="Google Cloud Functions",
    looks_for="a function decorated by functions_framework, or main.py with def f(request), f(cloud_event) "
    "or f(data, context)",
    triggers="HTTP; CloudEvent; legacy background event",
    input="flask.Request; CloudEvent; (data, context); an object of the function's own class",
    output="Flask response value; an object with to_dict; ignored for events",
    address="the function, 0.0.0.0",
    protocol="HTTP",
    port="$PORT, 8080",
    code="main.py ($FUNCTION_SOURCE), $FUNCTION_TARGET, signature by decorator or $FUNCTION_SIGNATURE_TYPE",
    forms={
        "http": "flask.Request",
        "cloudevent": "CloudEvent, or (data, context)",
        "timer": "CloudEvent, or a Pub/Sub message in (data, context)",
        "record": "CloudEvent, or a Pub/Sub message in (data, context)",
    },
    failure="500 with X-Google-Status: crash; 400 for what is no event; 405 for events that are not POSTed",
    concurrency="many (THREADS)",
    implied="flask, starlette and cloudevents where imported",
)
_UNHANDLED: Final = frozenset({b"/robots.txt", b"/favicon.ico"})
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_SIGNATURES: Final = ("http", "event", "cloudevent", "typed")
_TRUE: Final = frozenset({"y", "yes", "t", "true", "on", "1"})
# What other modules take from Flask.
_FLASK_NAMES: Final = (
    *("Blueprint", "Flask", "Request", "Response", "abort", "after_this_request", "current_app", "g"),
    *("has_request_context", "jsonify", "make_response", "redirect", "render_template"),
    *("render_template_string", "request", "send_file", "session", "stream_with_context", "url_for"),
)


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the functions that look like Google's: decorated, or with the usual parameters."""
    return detection.detect(tree, NAME)


def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function.

    Raises:
        FunctionLoadError: No such function, an unknown signature type, or one that the function cannot have.
    """
    environ = os.environ
    entry_point = bool(environ.get("ENTRY_POINT"))
    labels = environ.get("LOG_EXECUTION_ID", "").lower() in _TRUE
    _platform_environment(request)
    if labels or entry_point:
        logs.install(labels=labels, severity=entry_point)
    registry.reset()
    module, app = _import(request.source)
    target, habit = (request.target, "") if request.target else detection.only_candidate(request.source)
    function = _without_framework(find_function(module, target))
    known = registry.of(target, function.__name__)
    signature = known.signature or request.signature or habit or "http"
    if signature not in _SIGNATURES:
        raise FunctionLoadError(
            f"signature type {signature!r} is unknown",
            where=request.source,
            hint=f"Known signature types: {', '.join(_SIGNATURES)}.",
        )
    if app is None and _flask_is_used(request.bundle or os.path.dirname(request.source)):  # noqa: PTH120 -- pathlib costs a worker 8 ms of imports
        app = open_app(module.__name__, request.source.rpartition("/")[0], request.source)
    _tell_signature(signature, target, entry_point=entry_point)
    is_async = inspect.iscoroutinefunction(function)
    call: Callable[[Invocation], Any]
    serve: Callable[[Invocation, Answer], Any] | None = None
    if signature == "http" and (known.asgi or environ.get("FUNCTION_USE_ASGI", "").lower() in _TRUE):
        engine = _engine(function, request.source, is_async=is_async)
        call, serve, is_async = engine.call, engine.serve, True
    else:
        wrapped = _guarded(function, app, request.source, is_async=is_async)
        call = _call(
            signature,
            wrapped,
            function,
            known.input_type,
            app,
            request.source,
            is_async=is_async,
            none_body=b"OK" if entry_point else None,
        )
    if labels:
        call = logs.labelled(call, sync=not is_async)
        serve = logs.labelled(serve, sync=False) if serve is not None else None
    return LoadedFunction(
        call=call,
        serve=serve,
        sync=not is_async,
        on_error=_crash,
        signature=signature,
        target=target,
        unhandled_paths=_UNHANDLED if signature == "http" else frozenset(),
    )


def _platform_environment(request: LoadRequest) -> None:
    """Set what the managed service sets, unless the function's own environment does."""
    name = str(request.context.get("name") or request.name)
    found: Mapping[str, str] = {
        "FUNCTION_TARGET": request.target,
        "FUNCTION_SIGNATURE_TYPE": request.signature,
        "K_SERVICE": name,
        "K_CONFIGURATION": name,
        "K_REVISION": request.revision,
        "PORT": "8080",
    }
    for variable, value in found.items():
        if value:
            os.environ.setdefault(variable, value)


def _tell_signature(signature: str, target: str, *, entry_point: bool) -> None:
    """Set the variables that follow from what was loaded; the original overwrites them, too."""
    os.environ["FUNCTION_TARGET"] = target
    os.environ["FUNCTION_SIGNATURE_TYPE"] = signature
    if entry_point:
        os.environ["FUNCTION_NAME"] = os.environ.get("K_SERVICE") or target
        os.environ["FUNCTION_TRIGGER_TYPE"] = signature


def _import(source: str) -> tuple[ModuleType, FlaskApp | None]:
    """Import the source, inside an application context where it uses Flask, as the framework does."""
    folder, _, file = source.rpartition("/")
    app = None
    try:
        with open(source, "rb") as opened:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
            if b"flask" in opened.read():
                app = open_app(file.removesuffix(".py"), folder, source)
    except OSError:
        pass  # import_source says it better
    with contextlib.nullcontext() if app is None else app.app.app_context():
        return import_source(source), app


def _without_framework(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the user's function below the real framework's decorators, which only pass calls on.

    Their plain wrappers also hide that a function is a coroutine function.
    """
    while (
        hasattr(function, "__wrapped__")
        and str(getattr(function, "__globals__", {}).get("__name__", "")).partition(".")[0]
        == "functions_framework"
    ):
        function = function.__wrapped__
    return function


def _flask_is_used(bundle: str) -> bool:
    """Tell whether somebody but the real functions-framework, which always does, imported Flask.

    A real request costs three times a light one, so code that only names the framework does without.
    """
    flask = sys.modules.get("flask")
    framework = registry.real_framework()
    if flask is None or framework is None:
        return flask is not None
    names = {id(flask), *(id(vars(flask)[name]) for name in _FLASK_NAMES if name in vars(flask))}
    known = sys.stdlib_module_names | {"flask", "functions_framework", "werkzeug", "pelton"}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in known:
            continue
        if any(id(value) in names for value in list(vars(module).values())):
            return True
        file = getattr(module, "__file__", None) or ""
        if file.startswith(f"{bundle.rstrip('/')}/") and file.endswith(".py"):
            with open(file, "rb") as opened:  # noqa: PTH123 -- as above
                if b"flask" in opened.read():
                    return True
    return False


def _engine(function: Callable[..., Any], source: str, *, is_async: bool) -> Any:
    # Few functions are in ASGI mode: the others do without the modules.
    from pelton.compat.gcf import asgi
    from pelton.sdk.asgi import Engine

    return Engine(asgi.application(function, is_async=is_async, source=source), where=source)


def _guarded(
    function: Callable[..., Any], app: FlaskApp | None, source: str, *, is_async: bool
) -> Callable[..., Any]:
    if not registry.ERROR_HANDLERS:
        return function
    return http.guard(function, http.handler_of(registry.ERROR_HANDLERS, source), app, is_async=is_async)


def _call(
    signature: str,
    wrapped: Callable[..., Any],
    function: Callable[..., Any],
    input_type: Any,
    app: FlaskApp | None,
    source: str,
    *,
    is_async: bool,
    none_body: bytes | None,
) -> Callable[[Invocation], Any]:
    """Return how to call the function by its signature; `wrapped` is it with its error handlers."""
    if signature == "http":
        return http.call(
            wrapped, app, is_async=is_async, none_body=none_body, guarded=wrapped is not function
        )
    reply = None
    if signature == "cloudevent":
        arguments = events.cloudevent_arguments(_event_class())
    elif signature == "event":
        arguments = events.event_arguments(_context_class())
    else:
        arguments = events.typed_arguments(_input_class(function, input_type, source))
        reply = events.typed_reply(app)
    return events.call(wrapped, arguments, reply, app, is_async=is_async)


def _event_class() -> Callable[[dict[str, Any], Any], Any]:
    """Return the CloudEvent class: the SDK's where the function's environment has it, else our own."""
    try:
        from cloudevents.http import CloudEvent as Real
    except ImportError:
        return CloudEvent
    make: Callable[[dict[str, Any], Any], Any] = Real
    return make


def _context_class() -> Callable[..., Any]:
    """Return the Context class: Google's where user code has imported the package that brings it."""
    if registry.real_framework() is None and "google.cloud.functions_v1.context" not in sys.modules:
        return events.Context
    try:
        make: Callable[..., Any] = importlib.import_module("google.cloud.functions.context").Context
    except ImportError:
        return events.Context
    return make


def _input_class(function: Callable[..., Any], said: Any, source: str) -> Any:
    """Return the class that a typed function takes: the decorator's, else its parameter's annotation.

    Raises:
        FunctionLoadError: Neither says one, they differ, or it has no `from_dict`.
    """
    where = f"{source}:{function.__code__.co_firstlineno}"
    name = next(iter(inspect.signature(function).parameters), "")
    try:
        annotated = typing.get_type_hints(function).get(name)
    except NameError:
        annotated = None
    except Exception as exc:
        raise FunctionLoadError(
            f"the annotations of {function.__name__} cannot be read: {exc}", where=where
        ) from None
    hint = (
        f"Write `def {function.__name__}({name or 'value'}: YourClass)`, "
        "or @functions_framework.typed(YourClass)."
    )
    if said is not None and annotated is not None and said is not annotated:
        raise FunctionLoadError(
            f"the decorator says {_name(said)} and the annotation {_name(annotated)}", where=where, hint=hint
        )
    found = said if said is not None else annotated
    if found is None:
        raise FunctionLoadError(
            f"the typed function {function.__name__} does not say what it takes", where=where, hint=hint
        )
    if not callable(getattr(found, "from_dict", None)):
        raise FunctionLoadError(
            f"{_name(found)}, which {function.__name__} takes, has no from_dict",
            where=where,
            hint="Give the class `from_dict(values)`, a static or class method, and `to_dict(self)`.",
        )
    return found


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", None) or repr(kind)


def _crash(exc: BaseException) -> Reply:
    text = "500 Internal Server Error: the function raised an exception; its log has the traceback.\n"
    return Reply(500, [_HTML, http.CRASH], text.encode(), error=tracebacks.reason(exc))
