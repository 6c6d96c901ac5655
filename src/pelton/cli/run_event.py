"""`pelton run --event FILE`: one saved event through one function, its outcome as output and exit code.

The file holds a CloudEvent in JSON, an Event as a worker gets it (`kind`, `component_type`, `data`, ...), or
anything else: then it is the payload itself, as `aws lambda invoke` and `wsk action invoke` would send it.
Called by `cli/run.py`.
"""

from __future__ import annotations

import asyncio
import base64
import contextvars
import json
import sys
import time
from pathlib import Path
from typing import Any, Final

from pelton.cli.run_serve import Asked, Loaded, load, shared_page
from pelton.dataplane.streams import INVOCATION
from pelton.errors import SourceError, UsageError
from pelton.model import cloudevent
from pelton.model.convention import DEFERRED
from pelton.model.invocation import Event, Invocation, Reply
from pelton.sdk import tracebacks

__all__ = ["run_event"]

_EVENT_FIELDS: Final[dict[str, type]] = {
    "kind": str,
    "component": str,
    "component_type": str,
    "topic": str,
    "content_type": str,
    "attributes": dict,
    "metadata": dict,
}


def run_event(wanted: Asked, file: str) -> int:
    """Call the function once and print what it answers; returns 0 when it accepted the event, else 1.

    Raises:
        PeltonError: The file cannot be read, or the function cannot be loaded.
    """
    try:
        text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as exc:
        raise SourceError(f"the event cannot be read: {exc.strerror}", where=file) from exc
    page = shared_page()
    loaded = load(wanted, page, port=0)
    try:
        return asyncio.run(_call(loaded, _invocation(loaded, text)))
    finally:
        page.close()


def _invocation(loaded: Loaded, text: bytes) -> Invocation:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None  # the payload itself, whatever it is
    if isinstance(found, dict) and "specversion" in found:
        read = cloudevent.from_json(text)
        event: Event | None = Event(
            kind="topic",
            component="event",
            component_type="pubsub.file",
            topic=str(found.get("topic", "")),
            data=read.data,
            content_type=read.content_type,
            attributes=read.attributes(),
        )
    elif isinstance(found, dict) and "data" in found and "component_type" in found:
        event = _saved(found)
    elif loaded.workload.convention in DEFERRED:
        event = Event(
            kind="deferred",
            component="event",
            component_type="file",
            topic="",
            data=text,
            content_type="application/json" if found is not None else "application/octet-stream",
        )
    else:
        event = None
    timeout_s = loaded.workload.request_timeout_s or float("inf")
    return Invocation(
        id="event-1",
        method="POST",
        target=b"/",
        headers=[]
        if event is not None
        else [
            (b"host", b"localhost"),
            (b"content-type", b"application/json" if found is not None else b"application/octet-stream"),
        ],
        body=event.data if event is not None else text,
        deadline=time.monotonic() + timeout_s,
        event=event,
    )


def _saved(found: dict[str, Any]) -> Event:
    data = found["data"]
    try:
        if found.get("data_base64"):
            raw = base64.b64decode(found["data_base64"], validate=True)
        else:
            raw = data.encode() if isinstance(data, str) else json.dumps(data).encode()
    except (TypeError, ValueError) as exc:
        raise UsageError(f"the saved event cannot be read: its data is no text and no base64: {exc}") from exc
    fields = {name: found[name] for name in _EVENT_FIELDS if name in found}
    for name, value in fields.items():
        if not isinstance(value, _EVENT_FIELDS[name]):
            raise UsageError(
                f"the saved event cannot be read: {name} is {json.dumps(value)}",
                hint=f"Expected {'an object' if _EVENT_FIELDS[name] is dict else 'a text'}.",
            )
    return Event(
        **({"kind": "topic", "component": "event", "topic": "", "content_type": ""} | fields), data=raw
    )


async def _call(loaded: Loaded, invocation: Invocation) -> int:
    """Call a function that is served, on no address: outputs and states go through its worker."""
    function = loaded.function
    limit = None if invocation.deadline == float("inf") else invocation.deadline - time.monotonic()
    INVOCATION.set(invocation)
    ready = asyncio.Event()
    serving = asyncio.create_task(
        loaded.worker.serve(function, [], loaded.control, on_ready=ready.set, signals=False)
    )
    started = time.monotonic()
    try:
        await _until(ready, serving)
        started = time.monotonic()
        async with asyncio.timeout(limit):
            if function.sync:
                context = contextvars.copy_context()
                reply = await asyncio.to_thread(context.run, function.call, invocation)
            else:
                reply = await function.call(invocation)
            body = reply.body if isinstance(reply.body, bytes) else b"".join([c async for c in reply.body])
    except TimeoutError:
        reply, body = Reply(504, error="it did not finish within its time limit"), b""
    except Exception as exc:
        print("\n".join(tracebacks.lines(exc, loaded.workload.bundle)), file=sys.stderr)
        reply, body = Reply(500, error=f"{type(exc).__name__}: {exc}"), b""
    finally:
        serving.cancel()
        await asyncio.wait([serving])
    sys.stdout.flush()
    if body:
        sys.stdout.buffer.write(body if body.endswith(b"\n") else body + b"\n")
        sys.stdout.flush()
    accepted = reply.status < 400
    outcome = "accepted" if accepted else f"failed: {reply.error or f'status {reply.status}'}"
    print(
        f"event {outcome} status={reply.status} {(time.monotonic() - started) * 1e3:.1f} ms", file=sys.stderr
    )
    return 0 if accepted else 1


async def _until(ready: asyncio.Event, serving: asyncio.Task[None]) -> None:
    """Wait until a worker serves; raises what kept it from doing so."""
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait([waiting, serving], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if serving.done():
        await serving
