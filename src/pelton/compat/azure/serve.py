"""From an Invocation to the function of an app that it is meant for, and back to a Reply.

Requests go by route, events by `choose.py`; the host's own addresses (`/admin`, Event Grid's webhook, `/`)
are answered here, too. An app whose functions are all plain is served as such, so that the worker may run
them inline; with a coroutine function among them all run on the loop, plain functions on threads.
Source: `faas-conventions` contract, sections 1d and 3.1. Decided where it is silent: a method that a route
does not take is 404; keys are asked for only where some are configured, except that the admin addresses are
closed without a master key outside of `pelton run`; timers do not run on startup: instances come and go.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs

from pelton.clock import SystemClock, rfc3339
from pelton.compat.azure import schedule, values
from pelton.compat.azure.app import RETURN, Function
from pelton.compat.azure.call import Steps, context_class, max_retries, run_async, run_sync, steps
from pelton.compat.azure.choose import choose, listens_to
from pelton.compat.azure.convert import Library
from pelton.compat.azure.http import request_class, to_reply
from pelton.compat.azure.routes import RouteError, Routes, parse_template
from pelton.compat.azure.settings import Host, Keys, resolve
from pelton.errors import DeliveryError, FunctionLoadError, ProtocolError
from pelton.model.invocation import Delivered, Invocation, Output, Reply
from pelton.sdk import tracebacks, trigger
from pelton.sdk.event import as_request, json_or_raw
from pelton.sdk.trigger import Trigger

__all__ = ["Endpoint", "Job", "PythonApp", "Router"]

_JSON: Final = (b"content-type", b"application/json; charset=utf-8")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_LEVELS: Final = frozenset({"anonymous", "function", "admin"})
_ADMIN: Final = "/admin/"
_RESERVED: Final = (b"/admin/host/", b"/admin/functions", b"/runtime/webhooks/")
"""The host's own, which a catch-all route does not take; the rest of /admin is left to apps that have one."""
_GRID: Final = "/runtime/webhooks/eventgrid"
_WARMUP: Final = "warmupTrigger"
_HOST_VERSION: Final = "4.0.0"


@dataclass(slots=True)
class Endpoint:
    """An HTTP function and who may call it.

    Attributes:
        function: The function.
        keys: Keys that open it; None when it is open to all.
        plain: Whether a call is nothing but request in, answer out.
    """

    function: Function
    keys: tuple[bytes, ...] | None
    plain: bool


@dataclass(slots=True)
class Job:
    """A call that goes the long way.

    Attributes:
        steps: What to do; its result is what `finish` gets.
        finish: Makes the Reply.
        fail: Makes the Reply for an exception, or raises it again.
    """

    steps: Steps
    finish: Callable[[Any], Reply]
    fail: Callable[[Exception], Reply]


def _again(exc: Exception) -> Reply:
    raise exc


class Router:
    """Everything about an app but how its functions are called; `PythonApp` and `custom.py` add that.

    Args:
        functions: Its functions.
        host: host.json.
        keys: Access keys.
        where: For messages.
        bundle: Directory of the source.
        developing: Whether this is `pelton run`.
        env: App settings.

    Attributes:
        find: (method, target) -> Endpoint and route parameters; None when no route takes the request.
    """

    def __init__(
        self,
        functions: Sequence[Function],
        host: Host,
        keys: Keys,
        *,
        where: str,
        bundle: str,
        developing: bool,
        env: Mapping[str, str],
    ) -> None:
        self.functions = list(functions)
        self.host = host
        self._keys = keys
        self._bundle = bundle
        self._developing = developing
        self._env = env
        self._began = time.monotonic()
        self._by_name = {item.name.lower(): item for item in functions}
        self._listening = {item.name: listens_to(item, lambda text: resolve(text, env)) for item in functions}
        self._schedules = {
            item.name: self._schedule(item, where)
            for item in functions
            if item.trigger.type == "timerTrigger"
        }
        self._last: dict[str, datetime] = {}
        self._methods = {
            str(item.trigger.fields.get("methodName") or item.name).lower(): item
            for item in functions
            if item.trigger.type == "daprServiceInvocationTrigger"
        }
        self.routes = Routes()
        self.find = self.routes.find if host.prefix else self._unreserved
        for item in functions:
            if item.is_http:
                self._add_route(item, where)

    def _unreserved(self, method: str, target: bytes) -> tuple[Any, dict[str, str]] | None:
        return None if target.lower().startswith(_RESERVED) else self.routes.find(method, target)

    def _add_route(self, function: Function, where: str) -> None:
        fields = function.trigger.fields
        written = fields.get("route")
        route = resolve(written if isinstance(written, str) else function.name, self._env).strip("/")
        try:
            template = parse_template("/".join(part for part in (self.host.prefix, route) if part))
        except RouteError as exc:
            raise FunctionLoadError(f"function {function.name!r}: {exc}", where=where) from None
        level = str(fields.get("authLevel") or "function").lower()
        if level not in _LEVELS:
            raise FunctionLoadError(
                f"function {function.name!r}: authLevel {level!r} is not known",
                where=where,
                hint=f"One of: {', '.join(sorted(_LEVELS))}.",
            )
        keys = self._keys.opening(function.name, level) if self._keys else None
        others = [item for item in function.bindings if item is not function.trigger]
        plain = not function.context and all(item.name == RETURN and item.type == "http" for item in others)
        methods = [str(method).upper() for method in fields.get("methods") or ()]
        self.routes.add(template, methods, Endpoint(function, keys, plain))

    def _schedule(self, function: Function, where: str) -> schedule.Schedule:
        text = resolve(str(function.trigger.fields.get("schedule") or ""), self._env)
        try:
            return schedule.parse(text)
        except schedule.ScheduleError as exc:
            hint = "e.g. `0 */5 * * * *`"
            if "%" in text:
                hint = f"The app setting in {text!r} is not set: put it into the environment."
            raise FunctionLoadError(f"function {function.name!r}: {exc}", where=where, hint=hint) from None

    # --- to be overridden ---
    def http_steps(self, function: Function, invocation: Invocation, route: Mapping[str, str]) -> Steps:
        """Return the steps of a request."""
        raise NotImplementedError

    def event_steps(self, function: Function, invocation: Invocation, happened: Trigger) -> Steps:
        """Return the steps of an event."""
        raise NotImplementedError

    def answer(self, value: Any) -> Reply:
        """Make a Reply of what an HTTP function's steps returned."""
        raise NotImplementedError

    # --- access ---
    def refused(self, keys: Sequence[bytes], invocation: Invocation) -> bool:
        """Return whether a request brings none of the keys; the header counts before the query."""
        import hmac

        given = invocation.header(b"x-functions-key")
        if given is None:
            query = invocation.target.partition(b"?")[2].decode("latin-1")
            given = parse_qs(query).get("code", [""])[0].encode("latin-1")
        # every key is compared, so that the time says nothing about which one came near
        return not sum([hmac.compare_digest(given, key) for key in keys])

    # --- what is no call of an HTTP function by its route ---
    def other(self, invocation: Invocation) -> Reply | Job:
        """Return the answer, or how to get it, for an event or for a request that no route takes."""
        if invocation.event is not None:
            return self._event(invocation)
        path = invocation.target.partition(b"?")[0].decode("latin-1").lower()
        if path == _GRID:
            return self._webhook(invocation)
        if path.startswith(_ADMIN):
            return self._admin(invocation, path.strip("/").split("/"))
        method = self._methods.get(path.strip("/"))
        if method is not None:
            return self._invoked(method, invocation)
        try:
            happened = trigger.of(invocation)
        except ProtocolError as exc:
            return Reply(400, [_TEXT], f"{exc.message}\n".encode())
        if happened.kind == "cloudevent":
            return self._happened(invocation, happened)
        if path == "/" and invocation.method in {"GET", "HEAD"}:
            below = f"/{self.host.prefix}" if self.host.prefix else "/"
            return Reply(
                200, [_TEXT], f"This function app is running; its routes are below {below}\n".encode()
            )
        return Reply(404)

    def _event(self, invocation: Invocation) -> Reply | Job:
        return self._happened(invocation, trigger.of(invocation))

    def _happened(self, invocation: Invocation, happened: Trigger) -> Reply | Job:
        try:
            function = choose(self.functions, self._listening, happened)
        except DeliveryError as exc:
            print(f"error: {exc}", file=sys.stderr)
            return Reply(500, retry=False, error=exc.message)
        if function.is_http:
            return Job(
                self.http_steps(function, as_request(invocation), {}),
                self._as_outcome,
                self._failing(function, 1),
            )
        if not self._is_due(function, happened):
            return Reply(200)
        return Job(
            self.event_steps(function, invocation, happened),
            lambda _: Reply(200),
            self._failing(function, happened.attempt),
        )

    def _as_outcome(self, value: Any) -> Reply:
        reply = self.answer(value)
        if reply.status < 400:
            reply.status = 200
        elif not reply.error:
            reply.error = f"the function answered {reply.status}"
        return reply

    def _is_due(self, function: Function, happened: Trigger) -> bool:
        """Whether a tick counts: cron joins days of the month and weekdays by "or", NCRONTAB by "and"."""
        own = self._schedules.get(function.name)
        if own is None or happened.kind != "timer" or not own.both_days:
            return True
        try:
            return own.includes_day(datetime.fromisoformat(happened.time))
        except ValueError:
            return True

    def _failing(self, function: Function, attempt: int) -> Callable[[Exception], Reply]:
        limit = max_retries(function)

        def fail(exc: Exception) -> Reply:
            if limit is None or limit < 0 or attempt <= limit:
                raise exc
            # the function's own policy ends here, whatever attempts the platform would still grant
            self.report(exc)
            return Reply(500, retry=False, error=tracebacks.reason(exc))

        return fail

    def report(self, exc: Exception) -> None:
        """Write an exception's traceback to the function's log."""
        print("\n".join(tracebacks.lines(exc, self._bundle)), file=sys.stderr)

    def datum(self, function: Function, happened: Trigger) -> tuple[values.Datum, dict[str, values.Datum]]:
        """Return what the host would send for an event."""
        now = SystemClock().now()
        last = self._last.get(function.name)
        if happened.kind == "timer" or function.name in self._schedules:
            self._last[function.name] = now
        return values.of_trigger(
            happened, function.trigger, now=now, last=last, schedule=self._schedules.get(function.name)
        )

    def lookup(self, happened: Trigger, metadata: Mapping[str, values.Datum]) -> dict[str, Any]:
        """Return the values of binding expressions: the event's metadata, and its payload's fields."""
        found: dict[str, Any] = {name: value for name, (_, value) in metadata.items()}
        blob = str(found.get("BlobTrigger") or "").partition("/")[2]
        if blob:
            found["name"] = blob
        content = json_or_raw(happened.data)
        if isinstance(content, dict):
            found.update(
                {name: value for name, value in content.items() if isinstance(value, str | int | float)}
            )
        return found

    # --- the host's own addresses ---
    def _invoked(self, function: Function, invocation: Invocation) -> Job:
        content_type = (invocation.header(b"content-type") or b"").decode("latin-1")
        happened = Trigger(
            kind="binding",
            id=invocation.id,
            time=rfc3339(SystemClock().now(), fraction=True),
            data=invocation.body,
            content_type=content_type,
        )
        return Job(self.event_steps(function, invocation, happened), lambda _: Reply(200), _again)

    def _webhook(self, invocation: Invocation) -> Reply | Job:
        """Take a delivery of Event Grid: an array of events, or the question whether this is the place."""
        query = parse_qs(invocation.target.partition(b"?")[2].decode("latin-1"))
        name = next((given[0] for key, given in query.items() if key.lower() == "functionname"), "")
        function = self._by_name.get(name.lower())
        if function is None or function.trigger.type != "eventGridTrigger":
            return Reply(404)
        if self._keys and self.refused(self._keys.opening(function.name, "function") or (), invocation):
            return Reply(401)
        try:
            events = values.event_grid_events(invocation.body)
        except ValueError as exc:
            return Reply(400, [_TEXT], f"This is no delivery of Event Grid: {exc}\n".encode())
        if invocation.header(b"aeg-event-type") == b"SubscriptionValidation":
            data = events[0].get("data") if events else None
            code = data.get("validationCode") if isinstance(data, dict) else None
            return Reply(200, [_JSON], json.dumps({"validationResponse": code}).encode())

        def all_of_them() -> Steps:
            for event in events:
                happened = Trigger(
                    kind="cloudevent",
                    id=str(event.get("id") or invocation.id),
                    time=str(event.get("eventTime") or event.get("time") or rfc3339(SystemClock().now())),
                    data=json.dumps(event).encode(),
                    content_type="application/json",
                )
                yield from self.event_steps(function, invocation, happened)

        return Job(all_of_them(), lambda _: Reply(202), _again)

    def _admin(self, invocation: Invocation, path: list[str]) -> Reply | Job:
        if path == ["admin", "host", "ping"]:
            return Reply(200)
        master = self._keys.opening("", "admin") or () if self._keys else ()
        if not (self._developing and not master) and self.refused(master, invocation):
            return Reply(401)
        if path == ["admin", "host", "status"] and invocation.method == "GET":
            status = {
                "id": os.path.basename(self._bundle),  # noqa: PTH119 -- pathlib costs a worker 8 ms of imports
                "state": "Running",
                "version": _HOST_VERSION,
                "processUptime": int((time.monotonic() - self._began) * 1000),
            }
            return Reply(200, [_JSON], json.dumps(status).encode())
        if path[:2] != ["admin", "functions"] or len(path) > 3:
            return Reply(404)
        if len(path) == 2:
            if invocation.method != "GET":
                return Reply(404)
            return Reply(
                200, [_JSON], json.dumps([self._described(item) for item in self.functions]).encode()
            )
        function = self._by_name.get(path[2])
        if function is None:
            return Reply(404)
        if invocation.method == "GET":
            return Reply(200, [_JSON], json.dumps(self._described(function)).encode())
        return self._run_by_hand(function, invocation) if invocation.method == "POST" else Reply(404)

    def _described(self, function: Function) -> dict[str, Any]:
        return {
            "name": function.name,
            "href": f"/admin/functions/{function.name}",
            "config": {"name": function.name, "bindings": [dict(item.fields) for item in function.bindings]},
            "language": "python" if function.user is not None else "custom",
            "isDisabled": False,
        }

    def _run_by_hand(self, function: Function, invocation: Invocation) -> Reply | Job:
        content = json_or_raw(invocation.body)
        if content is not None and not isinstance(content, dict):
            return Reply(400, [_TEXT], b'Expected a JSON object: {"input": "..."}\n')
        given = (content or {}).get("input")
        text = given if isinstance(given, str) else "" if given is None else json.dumps(given)
        if function.is_http:
            plain = Invocation(invocation.id, "POST", invocation.target, invocation.headers, text.encode())
            taken = self.http_steps(function, plain, {})
        else:
            happened = Trigger(
                kind="timer" if function.trigger.type == "timerTrigger" else "record",
                id=invocation.id,
                time=rfc3339(SystemClock().now(), fraction=True),
                data=text.encode(),
            )
            taken = self.event_steps(function, invocation, happened)

        def fail(exc: Exception) -> Reply:
            self.report(exc)
            return Reply(202)  # it was accepted; how it ends is in the log

        return Job(taken, lambda _: Reply(202), fail)


class PythonApp(Router):
    """An app of Python functions.

    Args:
        library: The library.
        send, send_async: As in LoadRequest.
        more: As for Router.
    """

    def __init__(
        self,
        library: Library,
        functions: Sequence[Function],
        host: Host,
        keys: Keys,
        *,
        send: Callable[[Output], Delivered],
        send_async: Callable[[Output], Awaitable[Delivered]],
        **more: Any,
    ) -> None:
        super().__init__(functions, host, keys, **more)
        self._library = library
        self._send = send
        self._send_async = send_async
        self._request: Any = request_class(library.module)
        self._response: Any = library.module.HttpResponse
        self._context = context_class(library)
        self._pool: Any = None

    @property
    def all_sync(self) -> bool:
        """Whether no function is a coroutine function."""
        return not any(item.is_async for item in self.functions)

    @property
    def sends(self) -> bool:
        """Whether a call may wait for the platform."""
        return any(
            item is not function.trigger and item.type != "http"
            for function in self.functions
            for item in function.bindings
        )

    def http_steps(self, function: Function, invocation: Invocation, route: Mapping[str, str]) -> Steps:
        """See Router."""
        return steps(
            self._library,
            function,
            self._request(invocation, dict(route)),
            route,
            lambda: self._context(function, invocation, 1),
        )

    def event_steps(self, function: Function, invocation: Invocation, happened: Trigger) -> Steps:
        """See Router."""
        datum, metadata = self.datum(function, happened)
        value = self._library.decode(function.trigger, datum, metadata)
        return steps(
            self._library,
            function,
            value,
            self.lookup(happened, metadata),
            lambda: self._context(function, invocation, happened.attempt),
        )

    def answer(self, value: Any) -> Reply:
        """See Router."""
        return to_reply(value, self._response)

    def call(self, invocation: Invocation) -> Reply:
        """Answer in this thread; for apps of plain functions."""
        if invocation.event is None:
            found = self.find(invocation.method, invocation.target)
            if found is not None:
                endpoint, route = found
                if endpoint.keys is not None and self.refused(endpoint.keys, invocation):
                    return Reply(401)
                if endpoint.plain:
                    return to_reply(endpoint.function.user(self._request(invocation, route)), self._response)
                taken = self.http_steps(endpoint.function, invocation, route)
                return to_reply(run_sync(taken, self._send), self._response)
        job = self.other(invocation)
        if isinstance(job, Reply):
            return job
        try:
            return job.finish(run_sync(job.steps, self._send))
        except Exception as exc:
            return job.fail(exc)

    async def call_async(self, invocation: Invocation) -> Reply:
        """Answer on the loop; plain functions run on threads of their own."""
        if invocation.event is None:
            found = self.find(invocation.method, invocation.target)
            if found is not None:
                endpoint, route = found
                if endpoint.keys is not None and self.refused(endpoint.keys, invocation):
                    return Reply(401)
                function = endpoint.function
                if endpoint.plain and function.is_async:
                    return to_reply(await function.user(self._request(invocation, route)), self._response)
                taken = self.http_steps(function, invocation, route)
                return to_reply(await run_async(taken, self._send_async, self._threaded), self._response)
        job = self.other(invocation)
        if isinstance(job, Reply):
            return job
        try:
            return job.finish(await run_async(job.steps, self._send_async, self._threaded))
        except Exception as exc:
            return job.fail(exc)

    async def _threaded(self, work: Callable[[], Any]) -> Any:
        import asyncio

        if self._pool is None:
            from concurrent.futures import ThreadPoolExecutor

            count = self._env.get("PYTHON_THREADPOOL_THREAD_COUNT", "")
            self._pool = ThreadPoolExecutor(int(count) if count.isdecimal() and int(count) else None)
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def start(self) -> None:
        """Run the warm-up functions, as each new instance does."""
        for function in self.functions:
            if function.trigger.type == _WARMUP:
                invocation = Invocation("warmup", "POST", b"/", [])
                happened = Trigger(kind="binding", id="warmup", time=rfc3339(SystemClock().now()))
                try:
                    taken = self.event_steps(function, invocation, happened)
                    await run_async(taken, self._send_async, self._threaded)
                except Exception as exc:
                    self.report(exc)

    async def stop(self) -> None:
        """Let threads end."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
