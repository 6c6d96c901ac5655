"""Fission: `def main()` with the `flask.request` global, specialised by the platform or run directly.

Found by `builders/detect.py`, loaded by `dataplane/loader.py`. With the option `specialize=true` the worker
is a generic environment that takes its code by `/specialize` or `/v2/specialize`; otherwise the function is
there from the start and a second specialisation is refused, so that no client can replace it.
Source: `faas-conventions` contract, sections 5 and 11 (rows 6 and 13). Decided where it is silent: `main`
with one parameter gets the request, as in the FastAPI environment; responses of message queue triggers go
to the outputs that the options `resp-topic` and `error-topic` name.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.util
import inspect
import json
import os
import re
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree, Trigger
from pelton.model.invocation import (
    Deferred,
    Headers,
    Invocation,
    LoadedFunction,
    LoadRequest,
    Output,
    Reply,
)
from pelton.sdk import tracebacks, trigger
from pelton.sdk.event import as_request
from pelton.sdk.flask_app import FlaskApp, open_app
from pelton.sdk.request import Request
from pelton.sdk.response import http_error_reply, to_reply
from pelton.sdk.source import find_function, import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "fission"
IMPLIED: Final = {"flask": "flask>=2.2,<4", "fastapi": "fastapi>=0.100"}
FACTS: Final = Facts(
    title="Fission",
    looks_for="YAML of fission.io (Environment, Package, Function), or def main() beside an import of "
    "flask's request",
    triggers="HTTPTrigger, TimeTrigger, MessageQueueTrigger, asynchronous invocation",
    input="flask.request, with X-Fission-... headers about the trigger",
    output="Flask response value; of a message: to the response topic",
    address="the environment, 0.0.0.0",
    protocol="HTTP (Flask); GET /healthz, POST /specialize or /v2/specialize",
    port="$RUNTIME_PORT, 8888",
    code="main.py or any module, `module.function`; main.main by default",
    forms={
        "http": "flask.request",
        "cloudevent": "flask.request with ce- headers",
        "timer": "flask.request, POST without a body, X-Fission-Timer-Name",
        "record": "flask.request, POST with the message, X-Fission-MQTrigger-Topic",
    },
    failure="500 of the framework; the router's JSON for 413, 429 and 504",
    concurrency="many",
    implied="flask and fastapi where imported",
)
_METHODS: Final = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"})
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json")
_SPECIALIZE: Final = frozenset({b"/specialize", b"/v2/specialize"})
_OWN_PATHS: Final = frozenset({*_SPECIALIZE, b"/healthz"})
_USERFUNC: Final = "/userfunc"
_ASYNC_LIMIT: Final = 256 * 1024
_INVOCATION_ID: Final = "X-Fission-Invocation-Id"
# Which reason the router gives for which status.
_REASONS: Final = {413: "request_too_large", 503: "capacity", 504: "timeout"}


# --- detection ---
def detect(tree: Tree) -> tuple[Match, ...]:
    """Return functions of Fission's YAML, else `def main()` beside flask's request."""
    return (*_manifests(tree), *_sources(tree))


def _manifests(tree: Tree) -> Iterator[Match]:
    documents = [
        document
        for name in tree.files
        if name.endswith((".yaml", ".yml")) and "fission.io/" in tree.text(name)
        for document in tree.documents(name)
        if isinstance(document, dict) and str(document.get("apiVersion", "")).startswith("fission.io/")
    ]
    functions = [document for document in documents if document.get("kind") == "Function"]
    for document in functions:
        spec = _mapping(document.get("spec"))
        name = str(_mapping(document.get("metadata")).get("name") or "")
        entry = str(_mapping(spec.get("package")).get("functionName") or "") or "main.main"
        options: dict[str, str] = {}
        if spec.get("functionTimeout"):
            options["request-timeout"] = f"{spec['functionTimeout']}s"
        triggers = []
        for other in documents:
            found = _trigger(other, name)
            if found is not None:
                triggers.append(found)
                url = str(_mapping(other.get("spec")).get("relativeurl") or "")
                if found.kind == "http" and "{" in url:
                    options["relativeurl"] = url
        yield Match(
            target=entry,
            signature=NAME,
            rule=f"a fission.io Function{f' {name}' if name else ''}",
            row="6",
            stage="marker",
            source=_file_of(tree, entry),
            options=options,
            triggers=tuple(triggers),
        )
    others = [document for document in documents if document.get("kind") in ("Environment", "Package")]
    if others and not functions:
        entry = tree.target or "main.main"
        yield Match(
            target=entry,
            signature=NAME,
            rule=f"a fission.io {others[0].get('kind')}",
            row="6",
            stage="marker",
            rank=1,
            source=_file_of(tree, entry),
        )


def _trigger(document: dict[str, Any], function: str) -> Trigger | None:
    kind, spec = document.get("kind"), _mapping(document.get("spec"))
    called = str(_mapping(document.get("metadata")).get("name") or "")
    if _mapping(spec.get("functionref")).get("name") != function:
        return None
    if kind == "TimeTrigger":
        return Trigger(kind="cron", value=str(spec.get("cron") or ""), name=called)
    if kind == "MessageQueueTrigger":
        return Trigger(kind="topic", value=str(spec.get("topic") or ""), name=called)
    if kind == "HTTPTrigger":
        return Trigger(
            kind="http", value=str(spec.get("relativeurl") or spec.get("prefix") or "/"), name=called
        )
    return None


def _mapping(value: Any) -> dict[str, Any]:
    """Return a field that should be a mapping, {} when it is none: detection does not judge manifests."""
    return value if isinstance(value, dict) else {}


def _file_of(tree: Tree, entry: str) -> str:
    module = entry.rpartition(".")[0] or "main"
    wanted = f"{module.replace('.', '/')}.py"
    beside = [name for name in tree.files if name == wanted or name.endswith(f"/{wanted}")]
    if beside:
        return min(beside, key=len)
    scripts = [name for name in tree.files if name.endswith(".py")]
    return scripts[0] if len(scripts) == 1 else wanted


def _sources(tree: Tree) -> Iterator[Match]:
    for source in tree.sources:
        flask_request = _imports_request(source.module)
        for node in source.module.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            arguments = node.args
            bare = not (arguments.args or arguments.posonlyargs or arguments.kwonlyargs or arguments.vararg)
            dotted = f"{source.name.removesuffix('.py')}.{node.name}"
            if tree.asked == NAME and node.name in {"main", tree.target, tree.target.rpartition(".")[2]}:
                rule, rank = f"def {node.name}", 0 if node.name != "main" else 1
            elif node.name == "main" and bare and flask_request:
                rule, rank = "def main() beside flask's request", 0
            else:
                continue
            yield Match(
                target=dotted if tree.target == dotted else node.name,
                signature=NAME,
                rule=rule,
                row="13",
                rank=rank,
                source=source.name,
                line=node.lineno,
            )
    if tree.asked == NAME and not any(name.endswith(".py") for name in tree.files):
        yield Match(
            target="",
            signature=NAME,
            rule="a generic environment, to be specialised",
            row="13",
            rank=2,
            options={"specialize": "true"},
        )


def _imports_request(module: ast.Module) -> bool:
    """Tell whether a file can say `request`, or `flask.request`, and mean Flask's."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module == "flask":
            if any(item.name in {"request", "*"} for item in node.names):
                return True
        elif isinstance(node, ast.Import) and any(item.name == "flask" for item in node.names):
            return True
    return False


# --- loading ---
def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function, or be a generic environment.

    Raises:
        FunctionLoadError: No such file or function.
    """
    environment = _Environment(request)
    if request.options.get("specialize", "").lower() != "true":
        environment.specialize(request.source, request.target)
    elif os.path.isfile(environment.state_file):  # noqa: PTH113 -- pathlib costs a worker 8 ms of imports
        environment.restore()
    return LoadedFunction(
        call=environment.call_async if environment.is_async else environment.call,
        sync=not environment.is_async,
        blocking="resp-topic" in request.options or "error-topic" in request.options,
        on_error=_failed,
        signature=NAME,
        target=environment.entry,
        refuse=_refuse,
        aside=environment.aside,
    )


class _Environment:
    """What stands in for Fission's environment container."""

    def __init__(self, request: LoadRequest) -> None:
        self.entry = ""
        self.is_async = False
        self.generic = request.options.get("specialize", "").lower() == "true"
        folder = os.environ.get("USERFUNCVOL", _USERFUNC)
        self.state_file = f"{folder}/state.json"
        self._request = request
        self._function: Callable[..., Any] | None = None
        self._app: FlaskApp | None = None
        self._one_parameter = False
        self._added = _router_headers(request)
        self._params = _pattern(request.options.get("relativeurl", ""))
        self._targets = {
            status: request.options[name]
            for status, name in ((True, "resp-topic"), (False, "error-topic"))
            if request.options.get(name)
        }

    # --- specialisation ---

    def specialize(self, source: str, entry: str) -> None:
        """Take a file, or a directory on the import path, and the name of the function in it."""
        module_name, _, name = entry.rpartition(".")
        name = name or "main"
        if os.path.isdir(source):  # noqa: PTH112 -- as above
            if source not in sys.path:
                sys.path.append(source)
            module = importlib.import_module(module_name or "main")
            where = f"{source}/{(module_name or 'main').replace('.', '/')}.py"
        else:
            module, where = import_source(source), source
        function = find_function(module, name)
        parameters = inspect.signature(function).parameters
        self._one_parameter = len(parameters) == 1
        self.is_async = inspect.iscoroutinefunction(function)
        if not self.is_async:
            self._app = open_app(module.__name__, where.rpartition("/")[0], where)
        self._function, self.entry = function, entry or f"{module.__name__}.{name}"

    def restore(self) -> None:
        """Specialise again as before a restart."""
        with open(self.state_file, encoding="utf-8") as file:  # noqa: PTH123 -- as above
            state = json.load(file)
        self.specialize(str(state["filepath"]), str(state.get("functionName") or ""))

    def _specialized_by(self, invocation: Invocation) -> Reply:
        if invocation.method != "POST":
            return Reply(405, [_TEXT, (b"allow", b"POST")], b"Method not allowed.\n")
        if not self.generic or self._function is not None:
            return Reply(400, [_TEXT], b"Not a generic container")
        try:
            if invocation.target.startswith(b"/v2/"):
                asked = json.loads(invocation.body)
                source, entry = str(asked["filepath"]), str(asked.get("functionName") or "")
            else:
                source, entry = f"{self.state_file.rpartition('/')[0]}/user", "main"
        except (ValueError, KeyError, TypeError) as exc:
            return Reply(400, [_TEXT], f"This is no request to specialise: {exc!r}\n".encode())
        if not os.path.exists(source):  # noqa: PTH110 -- as above
            return Reply(404, [_TEXT], f"There is no {source}\n".encode())
        self.specialize(_as_module(source), entry)
        try:
            with open(self.state_file, "w", encoding="utf-8") as file:  # noqa: PTH123 -- as above
                json.dump({"filepath": source, "functionName": entry}, file)
        except OSError:
            pass  # a container without its volume starts generic again
        return Reply(200, [_HTML], b"")

    # --- calls ---

    def aside(self, invocation: Invocation) -> Awaitable[Reply] | None:
        """Accept what is to be done later without a place in the gate."""
        mode = invocation.header(b"x-fission-invoke-mode")
        return self._accept(invocation) if mode is not None and mode.lower() == b"async" else None

    async def _accept(self, invocation: Invocation) -> Reply:
        defer = self._request.defer
        if defer is None:
            return _router_error(501, "async_disabled", "asynchronous invocation is off", invocation)
        if len(invocation.body) > _ASYNC_LIMIT:
            return _router_error(
                413, "request_too_large", f"the body exceeds {_ASYNC_LIMIT} bytes", invocation
            )
        key = invocation.header(b"x-fission-dedup-key")
        known = uuid.uuid5(uuid.NAMESPACE_OID, key.decode("latin-1")).hex if key else uuid.uuid4().hex
        kept = [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in invocation.headers
            if name not in {b"x-fission-invoke-mode", b"x-fission-dedup-key", b"content-length", b"host"}
        ]
        content_type = invocation.header(b"content-type") or b""
        delivered = await defer(
            Deferred(
                id=known,
                data=invocation.body,
                content_type=content_type.decode("latin-1"),
                metadata={
                    "method": invocation.method,
                    "target": invocation.target.decode("latin-1"),
                    "headers": json.dumps(kept),
                },
            )
        )
        if not delivered.ok:
            return _router_error(503, "store_unavailable", delivered.error, invocation)
        return Reply(202, [(_INVOCATION_ID.lower().encode(), known.encode())], b"")

    def call(self, invocation: Invocation) -> Reply:
        """Answer one invocation of a plain function."""
        if invocation.event is None:
            answer = self._own_answer(invocation)
            if answer is not None:
                return answer
        prepared = self._prepared(invocation)
        function, app = self._function, self._app
        assert function is not None  # noqa: S101 -- _own_answer refuses before
        try:
            if app is not None:
                one = self._one_parameter
                reply = app.call(prepared, function if one else lambda _request: function(), None)
            else:
                reply = to_reply(function(Request(prepared)) if self._one_parameter else function())
        except Exception as exc:
            said = http_error_reply(exc)
            if said is None:
                self._forward(invocation, Reply(500, body=tracebacks.reason(exc).encode()))
                raise
            reply = said
        self._forward(invocation, reply)
        return reply

    async def call_async(self, invocation: Invocation) -> Reply:
        """Answer one invocation of a coroutine function, as in the FastAPI environment."""
        if invocation.event is None:
            answer = self._own_answer(invocation)
            if answer is not None:
                return answer
        prepared = self._prepared(invocation)
        function = self._function
        assert function is not None  # noqa: S101 -- _own_answer refuses before
        made = _starlette_request(prepared) if self._one_parameter else None
        reply = _from_starlette(await (function(made) if self._one_parameter else function()))
        if invocation.event is not None and self._targets:
            await asyncio.to_thread(self._forward, invocation, reply)
        return reply

    def _own_answer(self, invocation: Invocation) -> Reply | None:
        path = invocation.target.partition(b"?")[0]
        if path in _OWN_PATHS:
            if path == b"/healthz":
                return Reply(200, [_HTML], b"")
            return self._specialized_by(invocation)
        if self._function is None:
            return Reply(500, [_HTML], b"Generic container: no requests supported")
        if invocation.method not in _METHODS:
            return Reply(405, [_HTML, (b"allow", b"DELETE, GET, HEAD, OPTIONS, POST, PUT")], b"")
        return None

    def _prepared(self, invocation: Invocation) -> Invocation:
        """Return the request with the headers that router and triggers add."""
        if invocation.event is not None:
            return self._from_event(invocation)
        headers = [*invocation.headers, *self._added]
        headers.append((b"x-fission-full-url", invocation.target))
        headers.append((b"x-fission-request-id", invocation.id.encode()))
        if self._params is not None:
            found = self._params.fullmatch(invocation.target.partition(b"?")[0].decode("latin-1"))
            if found is not None:
                headers += [
                    (f"x-fission-params-{name.replace('_', '-')}".encode(), value.encode("latin-1"))
                    for name, value in found.groupdict().items()
                ]
        return Invocation(
            invocation.id,
            invocation.method,
            invocation.target,
            headers,
            invocation.body,
            None,
            invocation.deadline,
            invocation.scheme,
            invocation.client,
            invocation.http_version,
        )

    def _from_event(self, invocation: Invocation) -> Invocation:
        called = trigger.of(invocation)
        if called.kind == "deferred":
            return self._from_deferred(invocation, called)
        request = as_request(invocation)
        headers = request.headers + self._added
        body = called.data
        if called.kind == "timer":
            headers.append((b"x-fission-timer-name", called.source.encode()))
            body = b""
        elif called.kind != "cloudevent":
            headers = [*headers, (b"x-fission-mqtrigger-topic", called.topic.encode())]
            for name, status in (
                (b"x-fission-mqtrigger-resptopic", True),
                (b"x-fission-mqtrigger-errortopic", False),
            ):
                headers.append((name, self._targets.get(status, "").encode()))
            headers += _forwarded(called.headers.items())
        request.headers, request.body = headers, body
        return request

    def _from_deferred(self, invocation: Invocation, called: trigger.Trigger) -> Invocation:
        metadata = invocation.event.metadata if invocation.event is not None else {}
        try:
            kept = [(str(name), str(value)) for name, value in json.loads(metadata.get("headers", "[]"))]
        except (ValueError, TypeError):
            kept = []
        headers: Headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in kept]
        headers += self._added
        headers += [
            (_INVOCATION_ID.lower().encode(), called.id.encode()),
            (b"x-fission-attempt", str(called.attempt).encode()),
            (b"x-fission-depth", b"0"),
        ]
        return Invocation(
            invocation.id,
            metadata.get("method", "POST"),
            metadata.get("target", "/").encode("latin-1"),
            headers,
            called.data,
            deadline=invocation.deadline,
            event=invocation.event,
        )

    def _forward(self, invocation: Invocation, reply: Reply) -> None:
        """Send a message's answer on, as the message queue trigger does; raises nothing."""
        event = invocation.event
        succeeded = 200 <= reply.status < 300
        name = self._targets.get(succeeded)
        if event is None or event.kind != "topic" or name is None or not isinstance(reply.body, bytes):
            return
        content_type = dict(reply.headers).get(b"content-type", b"text/plain").decode("latin-1")
        delivered = self._request.send(Output(name=name, data=reply.body, content_type=content_type))
        if not delivered.ok:
            print(f"the answer could not be sent to {name}: {delivered.error}", file=sys.stderr)


def _router_headers(request: LoadRequest) -> Headers:
    uid = uuid.uuid5(uuid.NAMESPACE_URL, f"{request.namespace}/{request.name}")
    return [
        (b"x-fission-function-uid", str(uid).encode()),
        (b"x-fission-function-name", request.name.encode()),
        (b"x-fission-function-namespace", request.namespace.encode()),
        (b"x-fission-function-resourceversion", request.revision.encode()),
    ]


def _pattern(relative_url: str) -> re.Pattern[str] | None:
    """Return what reads the variables of a relativeurl: `/items/{id}`, `/items/{id:[0-9]+}`."""
    if "{" not in relative_url:
        return None
    parts = re.split(r"\{([A-Za-z_]\w*)(?::([^{}]+))?\}", relative_url)
    text = re.escape(parts[0])
    for index in range(1, len(parts), 3):
        text += f"(?P<{parts[index]}>{parts[index + 1] or '[^/]+'})" + re.escape(parts[index + 2])
    try:
        return re.compile(text)
    except re.error as exc:
        raise FunctionLoadError(f"relativeurl {relative_url!r} cannot be read: {exc}") from exc


def _forwarded(headers: Any) -> Headers:
    """Return record headers as request headers; what HTTP cannot carry is left out."""
    return [
        (name.lower().encode(), str(value).encode("latin-1", "replace"))
        for name, value in headers
        if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name)
        and "\n" not in str(value)
        and "\r" not in str(value)
        and name.lower() not in {"content-type", "content-length", "transfer-encoding", "connection"}
    ]


def _as_module(source: str) -> str:
    """Return a path that can be imported: version 1 of the protocol has a file without a suffix."""
    if os.path.isdir(source) or source.endswith(".py"):  # noqa: PTH112 -- as above
        return source
    import tempfile

    folder = tempfile.mkdtemp(prefix="fission-")
    link = f"{folder}/mod.py"
    os.symlink(os.path.abspath(source), link)  # noqa: PTH100 PTH211 -- as above
    return link


def _starlette_request(invocation: Invocation) -> Any:
    """Return Starlette's request where the environment has it, else the light one."""
    if "starlette" not in sys.modules and importlib.util.find_spec("starlette") is None:
        return Request(invocation)
    requests = importlib.import_module("starlette.requests")
    path, _, query = invocation.target.partition(b"?")
    scope = {
        "type": "http",
        "method": invocation.method,
        "path": path.decode("latin-1"),
        "raw_path": path,
        "query_string": query,
        "headers": invocation.headers,
        "scheme": invocation.scheme,
        "server": ("localhost", 80),
        "client": (invocation.client, 0) if invocation.client else None,
        "http_version": invocation.http_version,
        "root_path": "",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": invocation.body, "more_body": False}

    return requests.Request(scope, receive)


def _from_starlette(value: Any) -> Reply:
    raw_headers, body = getattr(value, "raw_headers", None), getattr(value, "body", None)
    if raw_headers is not None and isinstance(body, bytes):
        return Reply(value.status_code, list(raw_headers), body)
    if isinstance(value, str):
        return Reply(200, [_JSON], json.dumps(value).encode())  # as FastAPI answers a str
    return to_reply(value)


def _failed(exc: BaseException) -> Reply:
    body = (
        b"<!doctype html>\n<html lang=en>\n<title>500 Internal Server Error</title>\n"
        b"<h1>Internal Server Error</h1>\n"
    )
    return Reply(500, [_HTML], body, error=tracebacks.reason(exc))


def _refuse(status: int, text: str, invocation: Invocation) -> Reply | None:
    return _router_error(429 if status == 503 else status, _REASONS.get(status, "error"), text, invocation)


def _router_error(status: int, reason: str, message: str, invocation: Invocation) -> Reply:
    trace = (invocation.header(b"traceparent") or b"").decode("latin-1").split("-")
    body = {
        "component": "router",
        "reason": reason,
        "requestId": invocation.id,
        "traceId": trace[1] if len(trace) == 4 else "",
        "message": message,
    }
    return Reply(status, [_JSON, (b"x-fission-component", b"router")], json.dumps(body).encode())
