"""`pelton invoke`: one request through the gateway, as any client would send it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx

from pelton.cli.home import Home
from pelton.errors import NotRunningError, UsageError

__all__ = ["invoke"]


def invoke(
    home: Home,
    name: str,
    *,
    namespace: str,
    data: str | None,
    headers: Sequence[str],
    event: str | None,
    method: str | None,
    path: str,
    include: bool,
    timeout_s: float,
) -> int:
    """Send a request and print the answer's body.

    Args:
        home: Whose gateway.
        name: The function.
        namespace: Its namespace.
        data: Body, or `@FILE`, or `@-` for standard input; None for no body.
        headers: `Name: value` lines.
        event: File with a CloudEvent in JSON; sent in structured form.
        method: None for POST with a body, else GET.
        path: Path and query after the function's address, with its leading slash.
        include: Print status line and headers too.
        timeout_s: Seconds to wait for the answer.

    Returns:
        0 for a status below 400, 1 else.
    """
    fields = [_header(line) for line in headers]
    body = _body(data)
    if event is not None:
        body = _event(event)
        fields.append(("content-type", "application/cloudevents+json"))
    elif body is not None and not any(key.lower() == "content-type" for key, _ in fields):
        fields.append(("content-type", _guess(body)))
    endpoints = home.endpoints()
    url = f"{endpoints.gateway}/{namespace}/{name}{path}"
    try:
        with httpx.Client(timeout=httpx.Timeout(timeout_s, connect=5.0), trust_env=False) as client:
            response = client.request(
                method or ("POST" if body is not None else "GET"), url, content=body, headers=fields
            )
    except httpx.TimeoutException as exc:
        raise NotRunningError(f"{namespace}/{name} did not answer within {timeout_s:g} s") from exc
    except httpx.TransportError as exc:
        raise NotRunningError(
            f"the gateway at {endpoints.gateway} does not answer: {exc}", hint="see `pelton status`"
        ) from exc
    if include:
        print(f"HTTP/1.1 {response.status_code} {response.reason_phrase}")
        for key, value in response.headers.items():
            print(f"{key}: {value}")
        print(flush=True)
    sys.stdout.flush()
    sys.stdout.buffer.write(response.content)
    if sys.stdout.isatty() and not response.content.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0 if response.status_code < 400 else 1


def _header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"-H {line!r} is not `Name: value`")
    return name.strip(), value.strip()


def _body(data: str | None) -> bytes | None:
    if data is None:
        return None
    if data == "@-":
        return sys.stdin.buffer.read()
    if data.startswith("@"):
        return _read(data[1:], "-d")
    return data.encode()


def _read(file: str, flag: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise UsageError(f"{flag}: {file} cannot be read: {exc.strerror}") from exc


def _event(file: str) -> bytes:
    content = _read(file, "--event")
    try:
        parsed = json.loads(content)
    except ValueError as exc:
        raise UsageError(f"--event: {file} is not JSON: {exc}") from exc
    if not isinstance(parsed, dict):
        raise UsageError(
            f"--event: {file} is not a JSON object", hint="a CloudEvent in JSON form is one object"
        )
    missing = [key for key in ("specversion", "id", "source", "type") if key not in parsed]
    if missing:
        raise UsageError(
            f"--event: {file} lacks {', '.join(missing)}", hint="a CloudEvent 1.0 needs these attributes"
        )
    return content


def _guess(body: bytes) -> str:
    try:
        json.loads(body)
    except ValueError:
        return "text/plain; charset=utf-8"
    return "application/json"
