"""Knative func: `new()` or `handle(scope, receive, send)` of the package `function`, or CloudEvents for it.

Found by its func.yaml and loaded by `dataplane/loader.py`; requests and answers are `sdk/asgi.py`'s. The
older templates are served as well: `main(context)` with the request and the event in it, and
`main(environ, start_response)`.
`run.envs` of func.yaml is set before the code is imported, unless the Function's own environment has the
name: plain values, and `{{ env:X }}` from the worker's environment; secrets and config maps belong into the
Function. LISTEN_ADDRESS is not looked at: Pelton says where functions listen.
Source: `faas-conventions` contract, section 8, and its row 1; `func-python`. Decided where they are silent:
the path has no prefix of the gateway's, as behind an address of its own; a WebSocket is answered 400; a
function of events that sends nothing has accepted its event (200), where func's server answers 500.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import sys
from collections.abc import Awaitable, Callable, Mapping
from types import ModuleType
from typing import Any, Final

from pelton.errors import FunctionLoadError, ProtocolError
from pelton.model import cloudevent
from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import Answer, Headers, Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks
from pelton.sdk.asgi import Collected, Exchange, scope_of
from pelton.sdk.event import CloudEvent, as_request, attributes_of, json_or_raw
from pelton.sdk.source import import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "knative-func"
IMPLIED: Final = {
    # Both majors are in use, each with modules that the other lacks.
    "cloudevents.core": "cloudevents>=2",
    "cloudevents.http": "cloudevents>=1.10,<2",
    "cloudevents.conversion": "cloudevents>=1.10,<2",
    "flask": "flask>=2.2,<4",
    "parliament": "parliament-functions",
}
FACTS: Final = Facts(
    title="Knative func",
    looks_for="func.yaml with specVersion or runtime python, and function/func.py or func.py with new, "
    "handle or main",
    triggers="HTTP; CloudEvent; Kafka",
    input='scope, receive, send; scope["event"] for CloudEvents',
    output="ASGI messages; a CloudEvent by send(event)",
    address="the function, $LISTEN_ADDRESS",
    protocol="HTTP",
    port="8080",
    code="package function: new() with handle(scope, receive, send), or handle",
    forms={
        "http": "http scope",
        "cloudevent": 'scope["event"]',
        "timer": 'scope["event"]',
        "record": 'scope["event"]',
    },
    failure="500 with text Error: ...; CloudEvent dev.functions.error; 400 for what is no CloudEvent",
    concurrency="many (one event loop)",
    implied="cloudevents, flask and parliament where imported",
)

_MANIFESTS: Final = ("func.yaml", "func.yml")
_FILES: Final = (
    "function/func.py",
    "function/__init__.py",
    "src/function/func.py",
    "src/function/__init__.py",
    "func.py",
)
_NAMES: Final = ("new", "handle", "main")
_ENV: Final = "env."
"""Prefix of options that are variables of func.yaml."""
_HEALTH: Final = {b"/health/liveness": "alive", b"/health/readiness": "ready"}
_TEXT: Final = (b"content-type", b"text/plain")
_STRUCTURED: Final = (b"content-type", b"application/cloudevents+json")


# --- detection ---


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the function that a func.yaml is about; one without it where the convention was asked for."""
    manifest = next((name for name in _MANIFESTS if name in tree.files), "")
    described: dict[str, Any] = {}
    for document in tree.documents(manifest) if manifest else ():
        if isinstance(document, dict) and ("specVersion" in document or "runtime" in document):
            described = document
    if not described and tree.asked != NAME:
        return ()
    runtime = str(described.get("runtime") or "python")
    if runtime != "python" and tree.asked != NAME:
        return ()  # its program is somebody else's business: --command
    found = _function_of(tree)
    if found is None:
        return ()
    source, target, line = found
    invoke = str(described.get("invoke") or "http")
    rule = f"{manifest} with runtime {runtime}, invoke {invoke}" if described else f"def {target} in {source}"
    return (
        Match(
            target=target,
            signature="cloudevent" if invoke == "cloudevent" else "http",
            rule=rule,
            row="1",
            stage="marker",
            source=source,
            line=line,
            options=_environment_of(described),
        ),
    )


def _function_of(tree: Tree) -> tuple[str, str, int] | None:
    """Return (file, name, line) of the function: what the package exports first, as func's loader has it."""
    named = [source.name for source in tree.sources if source.entry and source.name not in _FILES]
    wanted = (tree.target,) if tree.target else _NAMES
    for name in (*_FILES, *named):
        parsed = tree.module(name) if name in tree.files else None
        if parsed is None:
            continue
        defined = {
            node.name: node.lineno
            for node in parsed.body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for target in wanted:
            if target in defined:
                return name, target, defined[target]
    return None


def _environment_of(described: Mapping[str, Any]) -> dict[str, str]:
    run = described.get("run")
    listed = (run.get("envs") if isinstance(run, dict) else None) or described.get("envs") or ()
    found = {}
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, dict) and item.get("name") and item.get("value") is not None:
            found[f"{_ENV}{item['name']}"] = str(item["value"])
    return found


# --- loading ---


def load(request: LoadRequest) -> LoadedFunction:
    """Import the package and make the function's instance.

    Raises:
        FunctionLoadError: Neither `new` nor `handle` nor `main` is there, or the instance cannot handle.
    """
    _set_environment(request.options)
    module, target = _import(request)
    made = getattr(module, target)
    if target not in ("new", "handle"):
        return _legacy(request, made, module, target)
    instance = made() if target == "new" else None
    handle = made if instance is None else getattr(instance, "handle", None)
    if not callable(handle):
        raise FunctionLoadError(
            f"new() returned a {type(instance).__name__} without a method handle",
            where=request.source,
            hint="Return an object with `async def handle(self, scope, receive, send)`.",
        )
    events = request.signature == "cloudevent"
    function = _Function(instance, handle, _maker() if events else None)
    return LoadedFunction(
        call=function.call,
        serve=function.serve,
        sync=False,
        streams_body=not events,
        on_error=_error_event if events else _error_text,
        signature="cloudevent" if events else "http",
        target=target,
        start=function.start,
        stop=function.stop,
    )


def _set_environment(options: Mapping[str, str]) -> None:
    for name, value in options.items():
        if not name.startswith(_ENV):
            continue
        reference = re.fullmatch(r"\s*\{\{\s*(\w+):([^}]*?)\s*\}\}\s*", value)
        if reference is None:
            os.environ.setdefault(name[len(_ENV) :], value)
        elif reference[1] == "env" and reference[2] in os.environ:
            os.environ.setdefault(name[len(_ENV) :], os.environ[reference[2]])


def _import(request: LoadRequest) -> tuple[ModuleType, str]:
    """Import what holds the function: the package `function`, else its file; returns it and the name."""
    wanted = (request.target,) if request.target else _NAMES
    folder, _, file = request.source.rpartition("/")
    root, _, package = folder.rpartition("/")
    modules: list[str] = []
    if package == "function":
        if root not in sys.path:
            sys.path.insert(0, root)
        modules = [package] if file == "__init__.py" else [package, f"{package}.{file.removesuffix('.py')}"]
    for name in modules:
        module = importlib.import_module(name)
        for target in wanted:
            if callable(getattr(module, target, None)):
                return module, target
    if not modules:
        module = import_source(request.source)
        for target in wanted:
            if callable(getattr(module, target, None)):
                return module, target
    raise FunctionLoadError(
        f"the function exports none of {', '.join(wanted)}",
        where=request.source,
        hint="Define `def new()` that returns an object with `handle`, or `async def handle(scope, receive, "
        "send)`, in function/func.py, and import it in function/__init__.py.",
    )


class _Function:
    """An instance of a function and how it is called.

    Args:
        instance: What `new` returned; None for a plain `handle`.
        handle: Its handler.
        make: Makes a CloudEvent of attributes and data; None for functions of requests.
    """

    def __init__(
        self, instance: Any, handle: Callable[..., Any], make: Callable[[dict[str, Any], Any], Any] | None
    ) -> None:
        self._instance = instance
        self._handle = handle
        self._make = make

    async def start(self) -> None:
        await self._tell("start", os.environ.copy())

    async def stop(self) -> None:
        await self._tell("stop")

    async def _tell(self, name: str, *arguments: Any) -> None:
        method = getattr(self._instance, name, None)
        if method is None:
            return
        result = method(*arguments)
        if inspect.isawaitable(result):
            await result

    async def call(self, invocation: Invocation) -> Reply:
        """Answer in one piece: for callers that know Invocation and Reply only."""
        answer = Collected()
        await self.serve(invocation, answer)
        return answer.collected

    async def serve(self, invocation: Invocation, answer: Answer) -> None:
        """See LoadedFunction.serve."""
        event = None
        if self._make is not None and invocation.event is not None:
            event = self._make(
                attributes_of(invocation.event, invocation.id), json_or_raw(invocation.event.data)
            )
        if invocation.event is not None:
            invocation = as_request(invocation)
        else:
            refusal = await self._aside(invocation)
            if refusal is None and self._make is not None:
                event = _event(invocation, self._make)
                refusal = event if isinstance(event, Reply) else None
            if refusal is not None:
                answer.reply(refusal)
                return
        exchange = Exchange(invocation, answer)
        scope = scope_of(invocation, {}, mounted=False)
        send: Any = exchange.send
        if self._make is not None:
            scope["event"] = event
            send = _Sender(exchange.send)
        await self._handle(scope, exchange.receive, send)
        if exchange.untouched and self._make is not None:
            answer.reply(Reply(200))
        elif exchange.phase != Exchange.DONE:
            exchange.unfinished()

    async def _aside(self, invocation: Invocation) -> Reply | None:
        """Answer what never reaches the handler: health, and what is no HTTP."""
        check = _HEALTH.get(invocation.target.partition(b"?")[0])
        if check is not None:
            result: Any = True
            method = getattr(self._instance, check, None)
            if method is not None:
                result = method()
                if inspect.isawaitable(result):
                    result = await result
            fine, message = result if isinstance(result, tuple) else (result, "OK")
            return Reply(200 if fine else 500, [_TEXT], str(message).encode())
        if (invocation.header(b"upgrade") or b"").lower() == b"websocket":
            return Reply(400, [_TEXT], b"This function takes HTTP requests, no WebSockets.\n")
        return None


def _error_text(exc: BaseException) -> Reply:
    return Reply(500, [_TEXT], f"Error: {tracebacks.message(exc)}".encode(), error=tracebacks.reason(exc))


def _error_event(exc: BaseException) -> Reply:
    event = CloudEvent(
        {"type": "dev.functions.error", "source": "/cloudevent/error"},
        {"message": f"Error: {tracebacks.message(exc)}"},
    )
    body = _structured(event)
    return Reply(500, [_STRUCTURED], body, error=tracebacks.reason(exc))


# --- CloudEvents ---


def _maker() -> Callable[[dict[str, Any], Any], Any]:
    """Return what makes events: the class of the SDK that the function imports, else has, else our own."""
    first = ("cloudevents.core.v1.event", "cloudevents.http")
    for name in sorted(first, key=lambda name: name not in sys.modules):
        try:
            found = importlib.import_module(name).CloudEvent
        except (ImportError, AttributeError):
            continue
        return _second_major(found) if name == first[0] else found
    return CloudEvent


def _second_major(real: Callable[[dict[str, Any], Any], Any]) -> Callable[[dict[str, Any], Any], Any]:
    """Make events of cloudevents 2, whose time is a datetime and whose attributes are never empty."""
    from datetime import datetime

    def make(attributes: dict[str, Any], data: Any) -> Any:
        kept = {name: value for name, value in attributes.items() if value not in (None, "")}
        time = kept.get("time")
        if isinstance(time, str):
            try:
                kept["time"] = datetime.fromisoformat(time)
            except ValueError:
                del kept["time"]
        return real(kept, data)

    return make


def _event(invocation: Invocation, make: Callable[[dict[str, Any], Any], Any]) -> Any:
    """Return the CloudEvent of a request, or the Reply that refuses it."""
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in invocation.headers]
    try:
        found = cloudevent.from_headers(headers, invocation.body)
    except ProtocolError as exc:
        return Reply(400, [_TEXT], f"Bad Request: {exc.message}\n".encode())
    if found is None:
        return Reply(400, [_TEXT], b"Bad Request: this function takes CloudEvents, and this is none.\n")
    return make(found.attributes(), json_or_raw(found.data))


class _Sender:
    """What functions of events answer with: `send(event)`, or one of its three forms."""

    def __init__(self, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        self._send = send

    async def __call__(self, event: Any, status: int = 200) -> None:
        """Send an event in the JSON format."""
        await self.structured(event, status)

    async def structured(self, event: Any, status: int = 200) -> None:
        """Send an event in the JSON format."""
        await self._whole(status, [_STRUCTURED], _structured(event))

    async def binary(self, event: Any, status: int = 200) -> None:
        """Send an event as headers and payload."""
        await self._whole(status, *_binary(event))

    async def http(self, message: dict[str, Any]) -> None:
        """Send an ASGI message as it is."""
        await self._send(message)

    async def _whole(self, status: int, headers: Headers, body: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _parts(event: Any) -> tuple[dict[str, Any], Any]:
    """Return attributes, as text where they are no JSON, and data of anybody's CloudEvent."""
    get = getattr(event, "get_attributes", None)
    attributes = get() if get is not None else getattr(event, "_attributes", None)
    if attributes is None:
        raise TypeError(
            f"send takes a CloudEvent, not {type(event).__name__}; for messages there is send.http"
        )
    get_data = getattr(event, "get_data", None)
    data = get_data() if get_data is not None else event.data
    found: dict[str, Any] = {"specversion": "1.0"}
    for name, value in attributes.items():
        if value is not None:
            found[name] = value.isoformat().replace("+00:00", "Z") if hasattr(value, "isoformat") else value
    return found, data


def _structured(event: Any) -> bytes:
    members, data = _parts(event)
    if isinstance(data, (bytes, bytearray)):
        import base64

        members["data_base64"] = base64.b64encode(data).decode()
    elif data is not None:
        members["data"] = data
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def _binary(event: Any) -> tuple[Headers, bytes]:
    from urllib.parse import quote

    attributes, data = _parts(event)
    kind = attributes.pop("datacontenttype", None)
    if data is None:
        body = b""
    elif isinstance(data, (bytes, bytearray)):
        body = bytes(data)
    elif isinstance(data, str) and not cloudevent.is_json(str(kind or "")):
        body = data.encode()
    else:
        body = json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode()
        kind = kind or "application/json"
    headers: Headers = [(b"content-type", str(kind).encode("latin-1"))] if kind else []
    for name, value in attributes.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        headers.append((f"ce-{name}".encode(), quote(text, safe=_PRINTABLE).encode()))
    return headers, body


_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


# --- the older templates ---


class _Context(dict[str, Any]):
    """What `main(context)` is given; templates read it by key or by attribute."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)


def _legacy(
    request: LoadRequest, function: Callable[..., Any], module: ModuleType, target: str
) -> LoadedFunction:
    parameters = tuple(inspect.signature(function).parameters)
    if parameters == ("environ", "start_response"):
        from pelton.sdk.wsgi import caller

        return LoadedFunction(call=caller(function), sync=True, on_error=_error_text, target=target)
    from pelton.sdk.flask_app import open_app
    from pelton.sdk.request import Request
    from pelton.sdk.response import http_error_reply, to_reply

    app = open_app(module.__name__, request.source.rpartition("/")[0], request.source)
    make = _maker()

    def call(invocation: Invocation) -> Reply:
        event = None
        if invocation.event is not None:
            event = make(attributes_of(invocation.event, invocation.id), json_or_raw(invocation.event.data))
            invocation = as_request(invocation)
        elif invocation.target.partition(b"?")[0] in _HEALTH:
            return Reply(200, [_TEXT], b"OK")
        else:
            found = _event(invocation, make)
            event = None if isinstance(found, Reply) else found

        def run(http_request: Any) -> Any:
            return function(_Context(request=http_request, cloud_event=event))

        try:
            if app is not None:
                return app.call(invocation, run, b"")
            return to_reply(run(Request(invocation)))
        except Exception as exc:
            reply = http_error_reply(exc)
            if reply is None:
                raise
            return reply

    return LoadedFunction(
        call=call, sync=True, on_error=_error_text, signature=request.signature or "http", target=target
    )
