"""From an invocation to an action and back: the one place that knows all ways in.

A request to the function's own address, to /api/v1/web, to /api/v1/namespaces or to /run and /init, and any
event: each becomes a Task (an action, its whole parameters, and how to answer), which `package.py` runs.
Made by the package's `load`; called by `dataplane/worker.py`, one invocation at a time, since activations
find their context in the environment.
Source: `faas-conventions` contract, sections 6 and 12. Decided where it is silent: the function's own address
takes parameters as a web action does (if the action is exported: always, when it came without a manifest) and
answers a result with `body`, `statusCode` or `headers` by the rules of .http, any other as JSON, and an error
with 502 and its activation's id; an action that is not exported is invoked instead (parameters in, JSON
result out). A package's actions are below `/action` and `/package/action` there. An event whose action ends
in an error is an attempt; an invocation that was accepted for later is carried out once, as there.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pelton.compat.openwhisk import events, rest, web
from pelton.compat.openwhisk.activation import (
    APPLICATION_ERROR,
    DEVELOPER_ERROR,
    Outcome,
    Records,
    dump,
    new_id,
    record,
)
from pelton.compat.openwhisk.container import Container, mark_end
from pelton.compat.openwhisk.context import VARIABLES
from pelton.compat.openwhisk.manifest import DEFAULT, truthy
from pelton.compat.openwhisk.package import Action, Package, merge
from pelton.compat.openwhisk.web import Refused, problem
from pelton.errors import ProtocolError
from pelton.model.invocation import Deferred, Headers, Invocation, LoadRequest, Reply
from pelton.sdk import trigger as triggers

__all__ = ["Front", "Task"]

_API: Final = b"/api/v1/"
_WEB: Final = b"/api/v1/web/"
_ID: Final = b"x-openwhisk-activation-id"
_JSON: Final = (b"content-type", b"application/json")
_NOT_FOUND: Final = "The requested resource does not exist."
_PROCESSING: Final = "There was an error processing your request."
_METHODS: Final = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
_NO_LIMIT_S: Final = 300.0
"""Told as time left where there is no limit: the longest that the original platform grants."""


class Task:
    """An activation that is to be run.

    Attributes:
        action: What to run.
        params: Its parameters, whole.
        invocation: What caused it.
        render: Makes the answer.
        activation_id: 32 hexadecimal digits.
        others: Further actions of the same event, run after it.
        extension: Of a web action's address.
        flags: Query of an API request.
        started_ns: Epoch nanoseconds.
        record: What is kept of it, once it has ended.
    """

    # Class attributes instead of slots: most tasks never set these.
    others: tuple[Task, ...] = ()
    extension = ""
    flags: Mapping[str, str] = MappingProxyType({})
    record = b""

    def __init__(
        self, action: Action, params: Any, invocation: Invocation, render: Callable[[Task, Outcome], Reply]
    ) -> None:
        self.action = action
        self.params = params
        self.invocation = invocation
        self.render = render
        self.activation_id = new_id()
        self.started_ns = time.time_ns()


class Front:
    """All ways into a package.

    Args:
        package: What is served.
        request: The options `whisk-auth`, `sentinels` and `single-entry`, and the platform's `defer`.
    """

    def __init__(self, package: Package, request: LoadRequest) -> None:
        options = request.options
        self._package = package
        self._namespace = request.namespace
        self._namespaces = frozenset(
            {"_", request.namespace, *(["guest"] if request.namespace == DEFAULT else [])}
        )
        self._auth = options.get("whisk-auth", "")
        self._sentinels = truthy(options.get("sentinels", ""))
        # Under `pelton run` there is no platform: what is accepted for later is carried out before the 202.
        self._defer = None if request.revision == "run" else request.defer
        self._timeout_ms = int(request.timeout_s * 1000)
        self._records = Records()
        self._container = Container(package)
        self._single = self._container.accepts or truthy(options.get("single-entry", ""))
        self._event_action = options.get("action", "")

    # --- what the worker calls ---

    def call(self, invocation: Invocation) -> Reply:
        """Carry out an invocation; for packages of plain functions."""
        task = self.plan(invocation)
        if type(task) is Reply:
            return task
        return self._run(task)  # type: ignore[arg-type]  # the other half of the union

    def _run(self, task: Task) -> Reply:
        if task.render is not _of_run:
            self._enter(task)
        outcome = self._package.run(task.action, task.params)
        reply = self._finish(task, outcome)
        for other in task.others:
            reply = _worse(reply, self._run(other))
        return reply

    async def call_async(self, invocation: Invocation) -> Reply:
        """Carry out an invocation; for packages with coroutine functions, and blank runtimes."""
        task = self.plan(invocation)
        if isinstance(task, Reply):
            return task
        return await self._run_async(task)

    async def _run_async(self, task: Task) -> Reply:
        if task.render is not _of_run:
            self._enter(task)
        outcome = await self._package.run_async(task.action, task.params)
        reply = self._finish(task, outcome)
        for other in task.others:
            reply = _worse(reply, await self._run_async(other))
        return reply

    def aside(self, invocation: Invocation) -> Awaitable[Reply] | None:
        """Accept a non-blocking invocation, or answer about activations; None for everything else."""
        if not invocation.target.startswith(rest.PREFIX):
            return None
        if invocation.method == "POST" and (
            self._defer is None or rest.is_blocking(rest.flags_of(invocation))
        ):
            return None
        return self._answer_aside(invocation)

    async def _answer_aside(self, invocation: Invocation) -> Reply:
        try:
            found = self._rest(invocation)
        except Refused as exc:
            return problem(exc.status, exc.text, invocation.id)
        if isinstance(found, Reply):
            return found
        assert self._defer is not None  # noqa: S101 -- asked by aside
        for task in (found, *found.others):
            deferred = Deferred(
                id=task.activation_id,
                data=dump(task.params),
                metadata={"action": task.action.key, "trigger": task.flags.get("trigger", "")},
            )
            delivered = await self._defer(deferred)
            if not delivered.ok:
                return problem(503, f"The invocation could not be stored: {delivered.error}", invocation.id)
        return _accepted(found)

    async def stop(self) -> None:
        """Remove what /init unpacked."""
        self._container.clear()

    def refuse(self, status: int, text: str, invocation: Invocation) -> Reply | None:
        """Answer for the worker as the platform would: 429 for a full queue, an error for a passed limit."""
        target = invocation.target
        if status == 413:
            return problem(413, f"Request larger than allowed: {text}.", invocation.id)
        if not target.startswith(_API):
            return None
        if status == 503:
            return problem(429, "Too many concurrent requests in flight.", invocation.id)
        if status != 504:
            return None
        if target.startswith(_WEB):
            return problem(400, _PROCESSING, invocation.id)
        # The activation is ended with its process, so there is nothing that a 202 could promise.
        limit = f"The action exceeded its time limits of {self._timeout_ms} milliseconds."
        return Reply(502, [_JSON], dump({"error": limit}), error=limit)

    # --- before and after ---

    def _enter(self, task: Task) -> None:
        """Write an activation's context, unless it brought its own."""
        VARIABLES[b"__OW_ACTIVATION_ID"] = task.activation_id.encode()
        VARIABLES[b"__OW_TRANSACTION_ID"] = task.invocation.id.encode("utf-8", "replace")
        left = task.invocation.deadline - time.monotonic()
        if left > _NO_LIMIT_S * 1000:
            left = _NO_LIMIT_S
        VARIABLES[b"__OW_DEADLINE"] = b"%d" % (task.started_ns // 1_000_000 + int(left * 1000))

    def _finish(self, task: Task, outcome: Outcome) -> Reply:
        if task.render is _of_run:
            self._package.assume_name(None)
            return self._container.reply(outcome)
        try:
            reply = task.render(task, outcome)
        except Refused as exc:
            reply = problem(exc.status, exc.text, task.invocation.id)
        if self._sentinels:
            mark_end()
        if outcome.status or task.flags:
            self._keep(task, outcome)
        return reply

    def _keep(self, task: Task, outcome: Outcome) -> bytes:
        """Return an activation's record, the same whenever it is asked for."""
        if task.record:
            return task.record
        status, result = outcome.encoded()
        spec = task.action.spec
        task.record = data = record(
            activation_id=task.activation_id,
            namespace=self._namespace,
            path=task.action.path[1:],
            kind=spec.kind or "python:3",
            started_ms=task.started_ns // 1_000_000,
            ended_ms=max(task.started_ns, time.time_ns()) // 1_000_000,
            status=status,
            result=result,
            timeout_ms=spec.timeout_ms or 60_000,
        )
        self._records.add(task.activation_id, data)
        return data

    # --- which way in ---

    def plan(self, invocation: Invocation) -> Task | Reply:
        """Return what is to be run, or the answer where there is nothing to run."""
        try:
            if invocation.event is not None:
                return self._event(invocation)
            target = invocation.target
            if target.startswith(_API):
                if target.startswith(_WEB):
                    return self._web(invocation)
                if target.startswith(rest.PREFIX):
                    return self._rest_here(invocation)
                raise Refused(404, _NOT_FOUND)
            if invocation.method == "POST":
                if target == b"/run":
                    return self._run_request(invocation)
                if target == b"/init":
                    return self._container.init(invocation.body)
                if self._single and target == b"/":
                    found = self._single_entry(invocation)
                    if found is not None:
                        return found
            return self._root(invocation)
        except Refused as exc:
            return problem(exc.status, exc.text, invocation.id)

    # --- the container protocol ---

    def _run_request(self, invocation: Invocation) -> Task | Reply:
        try:
            action, params = self._container.parse(invocation.body)
        except Refused as exc:
            return Reply(exc.status, [_JSON], dump({"error": exc.text}) + b"\n", error=exc.text)
        return self._run_task(invocation, action, params)

    def _run_task(self, invocation: Invocation, action: Action, params: Any) -> Task:
        # Whoever is turned away as a web client must not come in by this door.
        if action.auth is not None:
            self._authorise(invocation, action)
        if action.simple:
            self._package.assume_name(action)
        return Task(action, params, invocation, _of_run)

    def _single_entry(self, invocation: Invocation) -> Task | Reply | None:
        """Read {init, activation, value}; None for any other body."""
        try:
            message = rest.loads(invocation.body)
        except Refused:
            return None
        if not isinstance(message, dict) or not ("init" in message or "activation" in message):
            return None
        if "init" in message:
            init = message["init"] if isinstance(message["init"], dict) else {}
            inner = init.get("value")
            reply = self._container.initialise(inner if isinstance(inner, dict) else init)
            if reply.status != 200 or "activation" not in message:
                return reply
        context = message["activation"] if isinstance(message["activation"], dict) else {}
        context.pop("value", None)
        try:
            action, params = self._container.enter(context, message.get("value"))
        except Refused as exc:
            return Reply(exc.status, [_JSON], dump({"error": exc.text}) + b"\n", error=exc.text)
        return self._run_task(invocation, action, params)

    # --- the function's own address ---

    def _root(self, invocation: Invocation) -> Task | Reply:
        target = invocation.target
        path = "" if target == b"/" else web.decoded_path(target.partition(b"?")[0])
        action = self._package.only
        if action is None:
            action, path = self._by_path(path)
        if path == "/":
            path = ""
        if not action.web:
            return self._invoke(invocation, action)
        if invocation.method == "OPTIONS" and not action.custom_options:
            return Reply(200, list(web.cors(invocation)))
        user = self._authorise(invocation, action) if action.auth is not None else ""
        if invocation.body and _is_structured(invocation):
            return self._structured(invocation, action)
        given = web.arguments(invocation, path, raw=action.raw, user=user, protected=action.final)
        return Task(action, merge(action, given) if action.params else given, invocation, _of_root)

    def _by_path(self, path: str) -> tuple[Action, str]:
        """Return the action that `/action/...` or `/package/action/...` names, and the rest of the path."""
        parts = [part for part in path.split("/") if part]
        package = self._package
        if package.blank:
            raise Refused(500, "no action defined yet")
        for names in (parts[:2], parts[:1]):
            if not names:
                continue
            found = package.find(names[0] if len(names) == 2 else DEFAULT, web.split_name(names[-1])[0])
            if found is not None:
                rest_of = "/".join(parts[len(names) :])
                return found, f"/{rest_of}" if rest_of else ""
        listed = ", ".join(f"/{key}" for key in package.exposed)
        raise Refused(404, f"No action has this address. Actions here: {listed}.")

    def _invoke(self, invocation: Invocation, action: Action) -> Task:
        """Invoke an action that is not exported: parameters in, result out."""
        if self._auth and not rest.authorised(invocation, self._auth):
            raise Refused(401, "The supplied authentication is invalid.")
        if _is_structured(invocation):
            return self._structured(invocation, action)
        given: Any = rest.flags_of(invocation) if b"?" in invocation.target else {}
        body = rest.payload_or_form(invocation)
        given = {**given, **body} if isinstance(body, dict) else body
        if isinstance(given, dict) and not action.final.isdisjoint(given):
            raise Refused(400, "Request defines parameters that are not allowed (e.g., reserved properties).")
        return Task(action, merge(action, given), invocation, _of_invoke)

    def _structured(self, invocation: Invocation, action: Action) -> Task:
        """Take a CloudEvent in structured mode apart, so that it looks like one in binary mode."""
        try:
            event = triggers.of(invocation)
        except ProtocolError as exc:
            raise Refused(400, exc.message) from exc
        given = events.parameters(event, None)
        return Task(action, merge(action, given), invocation, _of_root if action.web else _of_invoke)

    def _authorise(self, invocation: Invocation, action: Action) -> str:
        """Check `require-whisk-auth`; returns the caller's namespace, "" for who only knows the secret."""
        if action.auth is True:
            if self._auth and rest.authorised(invocation, self._auth):
                return self._namespace
        elif rest.knows_secret(invocation, str(action.auth)):
            return ""
        raise Refused(401, "The resource requires authentication, which was not supplied with the request")

    # --- /api/v1/web ---

    def _web(self, invocation: Invocation) -> Task | Reply:
        if invocation.method not in _METHODS:
            raise Refused(
                405,
                "HTTP method not allowed, supported methods: GET, DELETE, POST, PUT, HEAD, OPTIONS, PATCH",
            )
        path = invocation.target.partition(b"?")[0][len(_WEB) :]
        parts = path.split(b"/", 3)
        if len(parts) < 3 or web.decoded_path(parts[0]) not in self._namespaces:
            raise Refused(404, _NOT_FOUND)
        package, full = web.decoded_path(parts[1]), web.decoded_path(parts[2])
        name, extension = web.split_name(full)
        action = self._package.find(package, name)
        if action is None or not action.web:
            raise Refused(404, _NOT_FOUND)
        if invocation.method == "OPTIONS" and not action.custom_options:
            return Reply(200, list(web.cors(invocation)))
        try:
            user = ""
            # With own OPTIONS the action answers preflights, which never bring credentials.
            if action.auth is not None and invocation.method != "OPTIONS":
                user = self._authorise(invocation, action)
            below = "/" + web.decoded_path(parts[3]) if len(parts) > 3 else ""
            given = web.arguments(invocation, below, raw=action.raw, user=user, protected=action.final)
        except Refused as exc:
            return _with(problem(exc.status, exc.text, invocation.id), _cors_of(action, invocation))
        task = Task(action, merge(action, given), invocation, _of_web)
        task.extension = extension
        return task

    # --- /api/v1/namespaces ---

    def _rest(self, invocation: Invocation) -> Task | Reply:
        if self._auth and not rest.authorised(invocation, self._auth):
            raise Refused(401, "The supplied authentication is invalid.")
        call = rest.call_of(invocation, self._namespaces)
        if call.collection == "activations":
            return self._activations(invocation, call)
        if call.collection == "triggers":
            return self._fire(invocation, call)
        if invocation.method == "GET":
            if not call.names:
                found = [rest.describe(item, self._namespace) for item in self._package.exposed.values()]
                return Reply(200, [_JSON], dump(found))
            return Reply(
                200, [_JSON], dump(rest.describe(rest.find(self._package, call.names), self._namespace))
            )
        action = rest.find(self._package, call.names)
        if invocation.method != "POST":
            raise Refused(405, "HTTP method not allowed, supported methods: GET, POST")
        task = Task(action, rest.payload(invocation, action), invocation, self._of_api)
        task.flags = {"blocking": "false", **rest.flags_of(invocation)}
        return task

    def _rest_here(self, invocation: Invocation) -> Task | Reply:
        """Plan an API request that is carried out now, also where nothing can be carried out later."""
        found = self._rest(invocation)
        if isinstance(found, Task):
            for task in (found, *found.others):
                task.params = merge(task.action, task.params)
        return found

    def _fire(self, invocation: Invocation, call: rest.Call) -> Task | Reply:
        named = [item for item in self._package.triggers if [item.name] == call.names]
        if not named:
            raise Refused(404, _NOT_FOUND)
        if invocation.method != "POST":
            raise Refused(405, "HTTP method not allowed, supported methods: POST")
        payload = rest.payload(invocation, None)
        given = {**named[0].payload, **payload} if isinstance(payload, dict) else payload
        tasks = []
        for action in self._package.all_of(named[0].actions):
            task = Task(action, given, invocation, self._of_api)
            task.flags = {"blocking": "false", "trigger": named[0].name}
            tasks.append(task)
        if not tasks:
            return Reply(204)
        tasks[0].others = tuple(tasks[1:])
        return tasks[0]

    def _activations(self, invocation: Invocation, call: rest.Call) -> Reply:
        if invocation.method != "GET":
            raise Refused(405, "HTTP method not allowed, supported methods: GET")
        if not call.names:
            limit = rest.flags_of(invocation).get("limit", "30")
            found = self._records.latest(min(200, int(limit)) if limit.isdecimal() else 30)
            return Reply(200, [_JSON], b"[" + b",".join(found) + b"]")
        data = self._records.get(call.names[0])
        if data is None or len(call.names) > 2:
            raise Refused(404, _NOT_FOUND)
        if len(call.names) == 2:
            data = rest.part_of(data, call.names[1])
        return Reply(200, [_JSON], data)

    def _of_api(self, task: Task, outcome: Outcome) -> Reply:
        if not rest.is_blocking(task.flags):
            return _accepted(task)
        status, result = outcome.encoded()
        data = result if truthy(task.flags.get("result", "")) else self._keep(task, outcome)
        return Reply(502 if status else 200, [_JSON, (_ID, task.activation_id.encode())], data)

    # --- events ---

    def _event(self, invocation: Invocation) -> Task | Reply:
        event = triggers.of(invocation)
        if event.kind == "deferred":
            return self._deferred(invocation)
        declared = events.trigger_of(event, self._package.triggers)
        actions = self._package.all_of(declared.actions) if declared is not None else self._for_events()
        if not actions:
            text = (
                "no rule says which action this event starts; name one with the annotation pelton.dev/action"
            )
            return Reply(404, error=text, retry=False)
        given = events.parameters(event, declared)
        tasks = [Task(action, merge(action, dict(given)), invocation, _of_event) for action in actions]
        tasks[0].others = tuple(tasks[1:])
        return tasks[0]

    def _for_events(self) -> list[Action]:
        if self._event_action:
            package, _, name = self._event_action.rpartition("/")
            found = self._package.find(package or DEFAULT, name)
            return [found] if found is not None else []
        return [self._package.only] if self._package.only is not None else []

    def _deferred(self, invocation: Invocation) -> Task | Reply:
        event = invocation.event
        assert event is not None  # noqa: S101 -- asked by _event
        found = self._package.all_of([event.metadata.get("action", "")])
        if not found:
            return Reply(404, error="the action of this invocation is gone", retry=False)
        task = Task(found[0], merge(found[0], rest.loads(event.data)), invocation, _of_deferred)
        if len(invocation.id) == 32:
            task.activation_id = invocation.id
        task.flags = {"blocking": "false"}
        return task


# --- answers ---


def _of_run(task: Task, outcome: Outcome) -> Reply:
    raise AssertionError  # the container answers; this only marks its tasks


def _of_root(task: Task, outcome: Outcome) -> Reply:
    """Answer at the function's own address."""
    value = outcome.value
    if outcome.status == APPLICATION_ERROR:
        value = value["error"]
    headers = [] if task.action.custom_options else web.cors(task.invocation)
    if (
        type(value) is dict
        and ("body" in value or "statusCode" in value or "headers" in value)
        and outcome.status != DEVELOPER_ERROR
    ):
        return _with(web.http(value), headers)
    status, data = outcome.encoded()
    if not status:  # no id: a success leaves no record here, and a header that differs costs each time
        return Reply(200, [_JSON, *headers], data)
    return Reply(502, [_JSON, (_ID, task.activation_id.encode()), *headers], data)


def _of_invoke(task: Task, outcome: Outcome) -> Reply:
    status, data = outcome.encoded()
    if not status:
        return Reply(200, [_JSON], data)
    return Reply(502, [_JSON, (_ID, task.activation_id.encode())], data)


def _of_web(task: Task, outcome: Outcome) -> Reply:
    """Answer at /api/v1/web."""
    try:
        if outcome.status == DEVELOPER_ERROR:
            raise Refused(400, _PROCESSING)
        value = outcome.value["error"] if outcome.status else outcome.value
        reply = web.project(task.extension, value)
    except Refused as exc:
        reply = problem(exc.status, exc.text, task.invocation.id)
    reply.headers.append((_ID, task.activation_id.encode()))
    return _with(reply, _cors_of(task.action, task.invocation))


def _of_event(task: Task, outcome: Outcome) -> Reply:
    if outcome.status:
        return Reply(
            502, error=" ".join(str(outcome.value["error"]).split())[:500] or "the action ended in an error"
        )
    return Reply(204)


def _of_deferred(task: Task, outcome: Outcome) -> Reply:
    """Take a deferred invocation as done: its record says how it ended, and nothing repeats it."""
    return Reply(204)


def _accepted(task: Task) -> Reply:
    return Reply(202, [_JSON, (_ID, task.activation_id.encode())], rest.accepted(task.activation_id))


def _is_structured(invocation: Invocation) -> bool:
    """Tell whether a request is a CloudEvent whose body is the whole envelope."""
    for name, value in invocation.headers:
        if name == b"content-type":
            return value[:28].lower() == b"application/cloudevents+json"
    return False


def _worse(one: Reply, other: Reply) -> Reply:
    return other if 200 <= one.status < 300 else one


def _cors_of(action: Action, invocation: Invocation) -> Headers:
    return [] if action.custom_options else web.cors(invocation)


def _with(reply: Reply, headers: Headers) -> Reply:
    """Add default headers to an answer that lacks them."""
    if len(reply.headers) == 1 and reply.headers[0][0] == b"content-type":  # which is no default
        reply.headers += headers
        return reply
    own = {name for name, _ in reply.headers}
    reply.headers += [pair for pair in headers if pair[0] not in own]
    return reply
