"""Kubeless: `def f(event, context)` with two dicts, `event["extensions"]["request"]` and timeouts as 408.

Found by `builders/detect.py`, loaded by `dataplane/loader.py`. The request is a real bottle request where
the function's environment has bottle, else a light stand-in with its common surface.
Source: `faas-conventions` contract, sections 1, 7 and 11 (rows 7 and 12). Not carried over: a process per
request; sync functions run on threads of one process, and what overruns ends the process as everywhere.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts, Match, Tree, Trigger
from pelton.model.invocation import Headers, Invocation, LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks, trigger
from pelton.sdk.event import as_request
from pelton.sdk.flask_app import environ
from pelton.sdk.request import Request
from pelton.sdk.response import to_reply
from pelton.sdk.source import find_function, import_source

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "kubeless"
IMPLIED: Final = {"bottle": "bottle>=0.12"}
FACTS: Final = Facts(
    title="Kubeless",
    looks_for="YAML of kubeless.io/v1beta1, or def f(event, context) that indexes event['data'] or "
    "event['extensions']",
    triggers="HTTPTrigger, CronJobTrigger, KafkaTrigger, NATSTrigger, direct call",
    input="event dict (data, event-id, event-type, event-time, event-namespace, extensions.request), context "
    "dict",
    output="str, bytes, dict or bottle response",
    address="the function, 0.0.0.0",
    protocol="HTTP (bottle); GET /healthz, GET /metrics",
    port="$FUNC_PORT, 8080",
    code="any file, handler `file.function`",
    forms={
        "http": "event dict, data from the body",
        "cloudevent": "event dict, event-type, event-id and event-time from the CloudEvent",
        "timer": "event dict, event-namespace cronjobtriggers.kubeless.io",
        "record": "event dict, event-namespace kafkatriggers or natstriggers.kubeless.io",
    },
    failure="500; 408 after the time limit",
    concurrency="many; one request per process in the original",
    implied="bottle where imported",
)
_METHODS: Final = frozenset({"GET", "POST", "PATCH", "DELETE"})
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_HTML: Final = (b"content-type", b"text/html; charset=UTF-8")
_LAMBDA_NAMES: Final = frozenset({"lambda_handler", "handler"})
_EVENT_HEADERS: Final = {
    b"event-id": "event-id",
    b"event-type": "event-type",
    b"event-time": "event-time",
    b"event-namespace": "event-namespace",
}
_TIMED_OUT: Final = b"Timeout while processing the function"
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


# --- detection ---
def detect(tree: Tree) -> tuple[Match, ...]:
    """Return functions named by Kubeless manifests, else functions with exactly (event, context)."""
    return (*_manifests(tree), *_sources(tree))


def _manifests(tree: Tree) -> Iterator[Match]:
    documents = [
        document
        for name in tree.files
        if name.endswith((".yaml", ".yml")) and "kubeless.io/" in tree.text(name)
        for document in tree.documents(name)
        if isinstance(document, dict) and str(document.get("apiVersion", "")).startswith("kubeless.io/")
    ]
    for document in documents:
        spec = document.get("spec")
        if document.get("kind") != "Function" or not isinstance(spec, dict):
            continue
        handler = str(spec.get("handler") or "")
        options = {"handler": handler} if handler else {}
        if str(spec.get("timeout") or ""):
            options["request-timeout"] = str(spec["timeout"])
        labels = _mapping(_mapping(document.get("metadata")).get("labels"))
        name = str(_mapping(document.get("metadata")).get("name") or "")
        yield Match(
            target=handler,
            signature=NAME,
            rule=f"a kubeless.io Function{f' {name}' if name else ''}",
            row="7",
            stage="marker",
            source=_file_of(tree, handler),
            options=options,
            triggers=tuple(_triggers(documents, name, labels)),
        )


def _mapping(value: Any) -> dict[str, Any]:
    """Return a field that should be a mapping, {} when it is none: detection does not judge manifests."""
    return value if isinstance(value, dict) else {}


def _file_of(tree: Tree, handler: str) -> str:
    wanted = f"{handler.rpartition('.')[0]}.py"
    if wanted in tree.files:
        return wanted
    scripts = [name for name in tree.files if name.endswith(".py") and "/" not in name]
    return scripts[0] if len(scripts) == 1 else wanted


def _triggers(documents: list[Any], name: str, labels: Mapping[str, Any]) -> Iterator[Trigger]:
    for document in documents:
        kind, spec = document.get("kind"), _mapping(document.get("spec"))
        called = str(_mapping(document.get("metadata")).get("name") or "")
        if kind == "CronJobTrigger" and spec.get("function-name") == name:
            yield Trigger(kind="cron", value=str(spec.get("schedule") or ""), name=called)
        elif kind in ("KafkaTrigger", "NATSTrigger"):
            wanted = _mapping(_mapping(spec.get("functionSelector")).get("matchLabels"))
            if all({**labels, "function": name}.get(key) == value for key, value in wanted.items()):
                yield Trigger(kind="topic", value=str(spec.get("topic") or ""), name=called)
        elif kind == "HTTPTrigger" and spec.get("function-name") == name:
            yield Trigger(kind="http", value=f"/{str(spec.get('path') or '').lstrip('/')}", name=called)


def _sources(tree: Tree) -> Iterator[Match]:
    for source in tree.sources:
        module = source.name.removesuffix(".py")
        for node in source.module.body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.name.startswith("_"):
                continue
            parameters = _parameters(node)
            dotted = f"{module}.{node.name}"
            if len(parameters) != 2 or (parameters != ("event", "context") and tree.asked != NAME):
                continue
            keys = _keys_of(node, parameters[0])
            if keys:
                rule, rank = f"def {node.name}(event, context) reads event[{keys[0]!r}]", 0
            elif tree.asked == NAME or not (
                node.name in _LAMBDA_NAMES or source.name == "lambda_function.py"
            ):
                rule, rank = f"def {node.name}(event, context), which could be any of several platforms", 1
            else:
                continue
            yield Match(
                target=dotted if tree.target == dotted else node.name,
                signature=NAME,
                rule=rule,
                row="12",
                rank=rank,
                source=source.name,
                line=node.lineno,
            )


def _parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, ...]:
    arguments = node.args
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        return ()
    return tuple(item.arg for item in [*arguments.posonlyargs, *arguments.args])


def _keys_of(node: ast.AST, event: str) -> list[str]:
    """Return which of Kubeless' own keys the function reads from its event."""
    return [
        key.value
        for item in ast.walk(node)
        if isinstance(item, ast.Subscript)
        and isinstance(item.value, ast.Name)
        and item.value.id == event
        and isinstance(key := item.slice, ast.Constant)
        and key.value in {"data", "extensions"}
    ]


# --- loading ---
def load(request: LoadRequest) -> LoadedFunction:
    """Import the source and wrap its function.

    Raises:
        FunctionLoadError: No such file or function.
    """
    dotted = request.target or request.options.get("handler", "") or os.environ.get("FUNC_HANDLER", "")
    module_name, _, name = dotted.rpartition(".")
    if not name:
        raise FunctionLoadError(
            "no function is named", where=request.source, hint="Name it: --target file.function."
        )
    source = request.source
    if module_name and not source.endswith(f"/{module_name}.py"):
        source = f"{request.bundle}/{module_name}.py"
    if source.endswith("/_kubeless.py"):
        raise FunctionLoadError("a module may not be called _kubeless", where=source)
    timeout_s = _number(os.environ.get("FUNC_TIMEOUT"), request.timeout_s or 180.0)
    for key, value in (
        ("MOD_NAME", source.rpartition("/")[2].removesuffix(".py")),
        ("FUNC_HANDLER", name),
        ("FUNC_TIMEOUT", f"{timeout_s:g}"),
        ("FUNC_RUNTIME", f"python{sys.version_info[0]}.{sys.version_info[1]}"),
        ("FUNC_MEMORY_LIMIT", ""),
        ("FUNC_PORT", os.environ.get("PORT", "8080")),
    ):
        os.environ.setdefault(key, value)
    context = {
        "function-name": request.name or name,
        "timeout": timeout_s,
        "runtime": os.environ["FUNC_RUNTIME"],
        "memory-limit": os.environ["FUNC_MEMORY_LIMIT"],
    }
    function = find_function(import_source(source), name)
    bottle: Any = sys.modules.get("bottle")
    if bottle is None and importlib.util.find_spec("bottle") is not None:
        bottle = importlib.import_module("bottle")
    is_async = bool(function.__code__.co_flags & 0x80)  # a coroutine function
    metrics = _Metrics(request.name or name)
    return LoadedFunction(
        call=_caller(function, context, bottle, metrics, is_async=is_async),
        sync=not is_async,
        on_error=_failed,
        signature=NAME,
        target=dotted,
        refuse=_refuse,
    )


def _number(text: str | None, default: float) -> float:
    try:
        return float(text) if text else default
    except ValueError:
        return default


def _caller(
    function: Callable[..., Any], context: dict[str, Any], bottle: Any, metrics: _Metrics, *, is_async: bool
) -> Callable[[Invocation], Any]:
    def prepare(invocation: Invocation) -> dict[str, Any] | Reply:
        if invocation.event is not None:
            return _from_broker(invocation, bottle)
        path = invocation.target.partition(b"?")[0]
        if path == b"/healthz" and invocation.method == "GET":
            return Reply(200, [_HTML], b"OK")
        if path == b"/metrics" and invocation.method == "GET":
            return Reply(200, [(b"content-type", b"text/plain; version=0.0.4")], metrics.text().encode())
        if invocation.method not in _METHODS:
            return Reply(405, [_TEXT, (b"allow", b"DELETE, GET, PATCH, POST")], b"Method not allowed.\n")
        return _from_request(invocation, bottle)

    def call(invocation: Invocation) -> Reply:
        event = prepare(invocation)
        if type(event) is Reply:
            return event
        started = time.perf_counter()
        try:
            reply = _reply(function(event, dict(context)))
        except BaseException:
            metrics.note(invocation.method, time.perf_counter() - started, failed=True)
            raise
        metrics.note(invocation.method, time.perf_counter() - started, failed=False)
        return reply

    async def call_async(invocation: Invocation) -> Reply:
        event = prepare(invocation)
        if type(event) is Reply:
            return event
        started = time.perf_counter()
        try:
            reply = _reply(await function(event, dict(context)))
        except BaseException:
            metrics.note(invocation.method, time.perf_counter() - started, failed=True)
            raise
        metrics.note(invocation.method, time.perf_counter() - started, failed=False)
        return reply

    return call_async if is_async else call


def _from_request(invocation: Invocation, bottle: Any) -> dict[str, Any] | Reply:
    event: dict[str, Any] = {
        "data": invocation.body,
        "event-id": None,
        "event-type": None,
        "event-time": None,
        "event-namespace": None,
        "extensions": _Extensions(invocation, bottle),
    }
    called = None
    for name, value in invocation.headers:
        if name == b"content-type":
            # Exactly this text: the original compares, so a charset leaves the bytes as they are.
            if value == b"application/json" and invocation.body:
                try:
                    event["data"] = json.loads(invocation.body)
                except ValueError:
                    return Reply(400, [_HTML], b"Error: 400 Bad Request: Invalid JSON")
        elif name in _EVENT_HEADERS:
            event[_EVENT_HEADERS[name]] = value.decode("latin-1")
        elif name == b"ce-specversion":
            called = trigger.of(invocation)
    if called is None and (invocation.header(b"content-type") or b"").startswith(
        b"application/cloudevents+json"
    ):
        called = trigger.of(invocation)
    if called is not None and called.kind == "cloudevent":
        _fill(event, called)
    return event


def _from_broker(invocation: Invocation, bottle: Any) -> dict[str, Any]:
    called = trigger.of(invocation)
    event: dict[str, Any] = {
        "event-namespace": None,
        "extensions": _Extensions(as_request(invocation), bottle),
    }
    _fill(event, called)
    if called.kind == "timer":
        event["event-namespace"] = "cronjobtriggers.kubeless.io"
    elif called.kind == "record" and invocation.event is not None:
        kafka = "kafka" in invocation.event.component_type
        event["event-namespace"] = f"{'kafka' if kafka else 'nats'}triggers.kubeless.io"
        json_text = called.data if type(event["data"]) is not bytes else b""
        event["event-type"] = "application/json" if json_text else "application/x-www-form-urlencoded"
    return event


def _fill(event: dict[str, Any], called: trigger.Trigger) -> None:
    attributes = called.attributes
    event["data"] = _parsed(called.data)
    event["event-id"] = called.id
    event["event-type"] = str(attributes.get("type") or called.content_type)
    event["event-time"] = called.time
    if event.get("event-namespace") is None:
        event["event-namespace"] = str(attributes.get("source") or "") or None


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data) if data else data
    except ValueError:
        return data


class _Extensions(dict[str, Any]):
    """`event["extensions"]`: makes the request only when it is asked for."""

    def __init__(self, invocation: Invocation, bottle: Any) -> None:
        super().__init__()
        self._invocation = invocation
        self._bottle = bottle

    def __missing__(self, key: str) -> Any:
        if key != "request":
            raise KeyError(key)
        found = (
            self._bottle.BaseRequest(environ(self._invocation))
            if self._bottle is not None
            else BottleRequest(self._invocation)
        )
        self[key] = found
        return found

    def get(self, key: str, default: Any = None) -> Any:
        """Return the request, or the default for anything else."""
        return self[key] if key == "request" else default


class BottleRequest:
    """The common surface of bottle's request, for environments without bottle."""

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation
        self._request = Request(invocation)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._request, name)

    @property
    def query(self) -> Any:
        """Query parameters; `query_string` is their text."""
        return self._request.args

    GET = query

    @property
    def forms(self) -> Any:
        """Form fields."""
        return self._request.form

    @property
    def params(self) -> dict[str, Any]:
        """Query parameters and form fields."""
        return {**self._request.args.to_dict(), **self._request.form.to_dict()}

    @property
    def body(self) -> io.BytesIO:
        """The body as a file."""
        return io.BytesIO(self._invocation.body)

    @property
    def json(self) -> Any:
        """The body parsed, None when it does not say that it is JSON."""
        return self._request.get_json() if self._request.is_json else None

    @property
    def environ(self) -> dict[str, Any]:
        """The WSGI environment."""
        return environ(self._invocation)

    @property
    def query_string(self) -> str:
        """Query as sent."""
        return self._invocation.target.partition(b"?")[2].decode("latin-1")

    def get_header(self, name: str, default: Any = None) -> Any:
        """Return a header."""
        return self._request.headers.get(name, default)

    def get_cookie(self, key: str, default: Any = None) -> Any:
        """Return a cookie."""
        return self._request.cookies.get(key, default)


def _reply(value: Any) -> Reply:
    if value is None:
        return Reply(200, [_HTML], b"")
    if type(value) is str:
        return Reply(200, [_HTML], value.encode())
    headerlist = getattr(value, "headerlist", None)
    if headerlist is not None:  # a bottle response
        body = getattr(value, "body", b"")
        headers: Headers = [(name.lower().encode(), text.encode("latin-1")) for name, text in headerlist]
        made = to_reply(body if body is not None else b"")
        return Reply(int(value.status_code), headers, made.body)
    if isinstance(value, dict):
        return Reply(200, [(b"content-type", b"application/json")], json.dumps(value).encode())
    return to_reply(value)


def _failed(exc: BaseException) -> Reply:
    return Reply(500, [_HTML], b"Error: 500 Internal Server Error", error=tracebacks.reason(exc))


def _refuse(status: int, text: str, invocation: Invocation) -> Reply | None:
    del text, invocation
    return Reply(408, [_HTML], _TIMED_OUT) if status == 504 else None


class _Metrics:
    """The three series that the original shows."""

    def __init__(self, function: str) -> None:
        self._function = function
        self._calls: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._buckets: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def note(self, method: str, seconds: float, *, failed: bool) -> None:
        self._calls[method] = self._calls.get(method, 0) + 1
        if failed:
            self._failures[method] = self._failures.get(method, 0) + 1
        self._sums[method] = self._sums.get(method, 0.0) + seconds
        buckets = self._buckets.setdefault(method, [0] * len(_BUCKETS))
        for index, bound in enumerate(_BUCKETS):
            if seconds <= bound:
                buckets[index] += 1

    def text(self) -> str:
        lines = [
            "# HELP function_duration_seconds Duration of user function in seconds",
            "# TYPE function_duration_seconds histogram",
        ]
        for method, buckets in self._buckets.items():
            pairs = [
                *zip((f"{bound}" for bound in _BUCKETS), buckets, strict=True),
                ("+Inf", self._calls[method]),
            ]
            lines += [
                f'function_duration_seconds_bucket{{le="{bound}",method="{method}"}} {count}'
                for bound, count in pairs
            ]
            lines.append(f'function_duration_seconds_count{{method="{method}"}} {self._calls[method]}')
            lines.append(f'function_duration_seconds_sum{{method="{method}"}} {self._sums[method]}')
        for name, what, counts in (
            ("function_calls_total", "Number of calls to user function", self._calls),
            ("function_failures_total", "Number of exceptions in user function", self._failures),
        ):
            lines += [f"# HELP {name} {what}", f"# TYPE {name} counter"]
            lines += [f'{name}{{method="{method}"}} {count}' for method, count in counts.items()]
        return "\n".join(lines) + "\n"
