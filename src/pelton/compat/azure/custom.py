"""Azure's custom handlers: an executable that answers HTTP on a port of the host's choosing.

Bindings come from function.json; each call is `POST /<FunctionName>` with the trigger's data as JSON, or the
original request itself where host.json says so. Runs the program by `sdk/program.py` and reaches it by
`sdk/forward.py`; routes, keys and the choice of a function are `serve.py`'s.
Source: `faas-conventions` contract, section 3.2.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import sys
import uuid
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pelton.clock import SystemClock, rfc3339
from pelton.compat.azure.app import RETURN, Binding, Function
from pelton.compat.azure.convert import accepted, fetch, fetched, outputs_of
from pelton.compat.azure.http import headers_of, query_of, url_of
from pelton.compat.azure.serve import Router
from pelton.compat.azure.settings import Host, Keys
from pelton.compat.azure.values import Collection, Datum
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Delivered, Invocation, LoadedFunction, LoadRequest, Output, Reply
from pelton.sdk import tracebacks
from pelton.sdk.trigger import Trigger

__all__ = ["load"]

_START_S: Final = 30.0
_STOP_S: Final = 2.0
_VERSION: Final = b"4.0.0"
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_JSON: Final = (b"content-type", b"application/json; charset=utf-8")
_BINARY: Final = ("application/octet-stream", "multipart/")

Asked = Generator["_Ask | Output", Any, Any]


class HandlerError(RuntimeError):
    """A handler did not answer as a custom handler does."""


@dataclass(slots=True)
class _Ask:
    """Ask for a request to the program.

    Attributes:
        invocation: The request.
        whole: Whether the answer's body has to be there at once.
    """

    invocation: Invocation
    whole: bool = True


def load(
    request: LoadRequest, bundle: str, functions: Sequence[Function], host: Host, keys: Keys
) -> LoadedFunction:
    """Find the program and prepare to run it.

    Raises:
        FunctionLoadError: host.json names no program, or one that is missing or not executable.
    """
    argv, folder = _command(host, bundle)
    handler = _Handler(
        functions,
        host,
        keys,
        where=f"{bundle}/host.json",
        bundle=bundle,
        developing=request.revision == "run",
        env=os.environ,
    )
    handler.prepare(argv, folder, request.send_async, request.body_limit_bytes)
    return LoadedFunction(
        call=handler.call,
        sync=False,
        on_error=lambda exc: Reply(500, error=tracebacks.reason(exc)),
        signature="custom-handler",
        target=request.target or ",".join(item.name for item in functions),
        start=handler.start,
        stop=handler.stop,
    )


def _command(host: Host, bundle: str) -> tuple[list[str], str]:
    """Return the program with its arguments, and its working directory."""
    from shutil import which

    where = f"{bundle}/host.json"
    description = host.handler.get("description")
    description = description if isinstance(description, Mapping) else {}
    name = str(description.get("defaultExecutablePath") or "")
    if not name:
        raise FunctionLoadError(
            "customHandler names no program",
            where=where,
            hint='Add "description": {"defaultExecutablePath": "handler"}.',
        )
    folder = os.path.normpath(f"{bundle}/{description.get('workingDirectory') or ''}")
    inside = next(
        (path for path in (f"{folder}/{name}", f"{bundle}/{name}") if os.path.isfile(path)),  # noqa: PTH113 -- pathlib costs a worker 8 ms
        "",
    )
    found = inside or (name if name.startswith("/") else which(name) or "")
    if not found or not os.access(found, os.X_OK):
        what = "is not executable" if found and os.path.exists(found) else "is not there"  # noqa: PTH110 -- as above
        raise FunctionLoadError(
            f"customHandler's program {name!r} {what}",
            where=where,
            hint=f"Run `chmod +x {name}`."
            if found
            else "It is looked up in the app's directory, then in PATH.",
        )
    worker = description.get("defaultWorkerPath")
    arguments = [str(item) for item in description.get("arguments") or ()]
    return [os.path.normpath(found), *([str(worker)] if worker else []), *arguments], folder


class _Handler(Router):
    """The app of a custom handler, and its program."""

    def prepare(
        self,
        argv: list[str],
        folder: str,
        send: Callable[[Output], Awaitable[Delivered]],
        body_limit_bytes: int,
    ) -> None:
        """Say what to run and where outputs go; see `load`."""
        self._argv = argv
        self._folder = folder
        self._send = send
        self._limit = body_limit_bytes
        self._forwards = self.host.handler.get("enableForwardingHttpRequest") is True
        self._program: Any = None
        self._upstream: Any = None
        self._ended_by_itself = False

    # --- life ---
    async def start(self) -> None:
        from pelton.sdk.forward import Upstream
        from pelton.sdk.program import Program, free_port

        port = free_port()
        env = {
            "FUNCTIONS_CUSTOMHANDLER_PORT": str(port),
            "FUNCTIONS_HTTPWORKER_PORT": str(port),
            "FUNCTIONS_CUSTOMHANDLER_WORKER_ID": str(uuid.uuid4()),
            "FUNCTIONS_APP_ROOT_PATH": self._bundle,
            "FUNCTIONS_WORKER_RUNTIME": "custom",
        }
        program = Program(self._argv, env=env, cwd=self._folder, port=port, on_exit=self._ended)
        self._program = program
        try:
            await program.start()
            await program.ready(_START_S)
        except FunctionLoadError as exc:
            await program.stop(_STOP_S)
            hint = f"It has to listen on 127.0.0.1, port $FUNCTIONS_CUSTOMHANDLER_PORT ({port})."
            raise FunctionLoadError(
                exc.message, log_tail=exc.log_tail, where=f"{self._bundle}/host.json", hint=hint
            ) from None
        except BaseException:
            await program.stop(_STOP_S)
            raise
        self._upstream = Upstream(program.address, body_limit_bytes=self._limit)

    def _ended(self, status: int) -> None:
        """End this instance with its program; whoever asks next gets a new one."""
        from pelton.sdk.program import what_happened

        if not self._program.address:
            return  # `start` says it
        self._ended_by_itself = True
        text = f"{self._program.name} {what_happened(status)}; this instance ends with it"
        print(text, file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        if self._upstream is not None:
            self._upstream.close()
        if self._program is not None:
            await self._program.stop(_STOP_S)
        if self._ended_by_itself:
            import asyncio

            await asyncio.sleep(0)  # the last answers leave at the end of a turn
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    # --- calls ---
    async def call(self, invocation: Invocation) -> Reply:
        found = None
        if invocation.event is None:
            found = self.find(invocation.method, invocation.target)
        if found is not None:
            endpoint, route = found
            if endpoint.keys is not None and self.refused(endpoint.keys, invocation):
                return Reply(401)
            return self.answer(await self._taken(self.http_steps(endpoint.function, invocation, route)))
        job = self.other(invocation)
        if isinstance(job, Reply):
            return job
        try:
            return job.finish(await self._taken(job.steps))
        except Exception as exc:
            return job.fail(exc)

    async def _taken(self, steps: Asked) -> Any:
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration as stop:
                return stop.value
            if isinstance(step, _Ask):
                result = await self._upstream.forward(step.invocation)
                if step.whole and not isinstance(result.body, bytes):
                    result.body = b"".join([chunk async for chunk in result.body])
            else:
                result = await self._send(step)

    def http_steps(self, function: Function, invocation: Invocation, route: Mapping[str, str]) -> Asked:
        """See Router."""
        others = [item for item in function.bindings if item is not function.trigger]
        if self._forwards and len(others) == 1 and others[0].out and others[0].type == "http":
            headers = [*invocation.headers, *_identified(invocation.id)]
            forwarded = Invocation(
                invocation.id, invocation.method, invocation.target, headers, invocation.body
            )
            return (yield _Ask(forwarded, whole=False))
        headers_found = headers_of(invocation)
        content_type = headers_found.get("content-type", "").lower()
        value: dict[str, Any] = {
            "Url": url_of(invocation),
            "Method": invocation.method,
            "Query": query_of(invocation),
            "Headers": {name: [text] for name, text in headers_found.items()},
            "Params": dict(route),
            "Identities": [],
            "Body": _body(invocation.body, binary=content_type.startswith(_BINARY)),
        }
        return (yield from self._posted(function, invocation, value, dict(route), route))

    def event_steps(self, function: Function, invocation: Invocation, happened: Trigger) -> Asked:
        """See Router."""
        datum, metadata = self.datum(function, happened)
        plain = {name: _plain(found) for name, found in metadata.items()}
        lookup = self.lookup(happened, metadata)
        return (yield from self._posted(function, invocation, _plain(datum), plain, lookup))

    def _posted(
        self,
        function: Function,
        invocation: Invocation,
        value: Any,
        metadata: Mapping[str, Any],
        lookup: Mapping[str, Any],
    ) -> Asked:
        data = {function.trigger.name: value}
        for binding in function.bindings:
            if not binding.out and binding is not function.trigger:
                delivered = yield fetch(binding, lookup)
                fetched_now = fetched(binding, accepted(function.name, binding.name, delivered))
                data[binding.name] = _plain(fetched_now)
        system = {
            "MethodName": function.name,
            "UtcNow": rfc3339(SystemClock().now(), fraction=True),
            "RandGuid": str(uuid.uuid4()),
        }
        body = json.dumps({"Data": data, "Metadata": {**metadata, "sys": system}}, ensure_ascii=False)
        headers = [(b"host", b"127.0.0.1"), _JSON, *_identified(invocation.id)]
        path = f"/{function.name}".encode()
        reply = yield _Ask(Invocation(invocation.id, "POST", path, headers, body.encode()))
        return (yield from self._returned(function, _read(function.name, reply), lookup))

    def _returned(self, function: Function, content: Mapping[str, Any], lookup: Mapping[str, Any]) -> Asked:
        for line in content.get("logs") or ():
            print(line)
        outputs = content.get("outputs")
        outputs = outputs if isinstance(outputs, Mapping) else {}
        answer: Any = None
        for binding in function.bindings:
            if not binding.out:
                continue
            given = outputs.get(binding.name)
            if given is None and binding.name == RETURN:
                given = content.get("returnvalue")
            if binding.type == "http":
                # the return value answers where no output does
                answer = given if given is not None else content.get("returnvalue")
            elif given is not None:
                for output in outputs_of(function.name, binding, _decoded(binding, given), lookup):
                    accepted(function.name, binding.name, (yield output))
        return answer

    def answer(self, value: Any) -> Reply:
        """See Router."""
        if isinstance(value, Reply):
            return value
        if value is None:
            return Reply(204)
        if not isinstance(value, Mapping):
            return _shown(value, 200, {})
        fields = {str(name).lower(): item for name, item in value.items()}
        if not fields.keys() & {"statuscode", "status", "body", "headers"}:
            return _shown(value, 200, {})
        status = str(fields.get("statuscode") or fields.get("status") or 200)
        if not status.isdecimal() or not 100 <= int(status) <= 999:
            raise HandlerError(f"the handler answered status {status!r}; expected 100 to 999")
        headers = fields.get("headers")
        return _shown(fields.get("body"), int(status), headers if isinstance(headers, Mapping) else {})


def _identified(invocation_id: str) -> list[tuple[bytes, bytes]]:
    return [
        (b"x-azure-functions-invocationid", invocation_id.encode("latin-1", "replace")),
        (b"x-azure-functions-hostversion", _VERSION),
        (b"user-agent", b"Azure-Functions-Host/" + _VERSION),
    ]


def _body(body: bytes, *, binary: bool) -> str | None:
    if not body:
        return None
    if not binary:
        try:
            return body.decode()
        except UnicodeDecodeError:
            pass
    return base64.b64encode(body).decode()


def _plain(datum: Datum) -> Any:
    """Return a datum as JSON has it."""
    kind, value = datum
    if isinstance(value, Collection):
        items: list[Any] = [*value.string, *value.sint64]
        return items or [base64.b64encode(item).decode() for item in value.bytes]
    if kind == "json":
        return json.loads(value)
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def _read(function: str, reply: Reply) -> dict[str, Any]:
    """Return the handler's answer, a whole one, with lower-case keys."""
    if not 200 <= reply.status < 300:
        raise HandlerError(f"function {function!r}: the handler answered {reply.status}")
    try:
        content = json.loads(reply.body)  # type: ignore[arg-type]  # `_taken` has collected it
    except ValueError as exc:
        raise HandlerError(f"function {function!r}: the handler's answer is no JSON: {exc}") from None
    if not isinstance(content, dict):
        raise HandlerError(f"function {function!r}: the handler's answer is no JSON object")
    return {str(name).lower(): value for name, value in content.items()}


def _decoded(binding: Binding, value: Any) -> Any:
    """Return an output's value: text is tried as base64, unless the binding says what it is."""
    kind = str(binding.fields.get("dataType") or "").lower()
    if not isinstance(value, str) or kind == "string":
        return value
    try:
        return base64.b64decode(value, validate=True) if value else value
    except ValueError:
        return value


def _shown(body: Any, status: int, headers: Mapping[str, Any]) -> Reply:
    """Make a Reply of a body and headers as JSON has them."""
    if body is None:
        data, kind = b"", None
    elif isinstance(body, str):
        data, kind = body.encode(), _TEXT
    else:
        data, kind = json.dumps(body, ensure_ascii=False).encode(), _JSON
    found = [
        (str(name).lower().encode("latin-1"), str(text).encode("latin-1", "replace"))
        for name, given in headers.items()
        for text in (given if isinstance(given, list) else [given])
        if str(name).lower() not in {"content-length", "transfer-encoding", "connection"}
    ]
    if kind is not None and not any(name == b"content-type" for name, _ in found):
        found.append(kind)
    return Reply(status, found, data)
