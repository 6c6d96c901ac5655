"""The Notification Manager's API beside the intake: send or verify by a receiver at once, and what is known.

`cli/runtime.py` hands these routes to `notify/intake.create_app`. This address asks nobody who they are, so
a posted receiver gets no secret of the platform's: a reference to a Secret counts only in a receiver that is
stored with the same spec. Answers show no secrets. Source: contracts, log and notification, section 5.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pelton.clock import Clock
from pelton.errors import PayloadTooLargeError, PeltonError, ProtocolError
from pelton.manifest import notification
from pelton.manifest.notification_routing import CONFIG
from pelton.model.notification import Receiver
from pelton.model.notification_routing import Config
from pelton.notify.alert import Alert, identified, parse
from pelton.notify.intake import read_body
from pelton.notify.trial import Trial, specimen

__all__ = ["redacted", "verify_routes"]

_BODY_LIMIT = 1024 * 1024
_SECRET_FIELDS = frozenset({"webhook", "url", "value", "proxyUrl"})

TryOut = Callable[[Receiver, Config | None, Sequence[Alert], bool], Awaitable[Sequence[Trial]]]
"""Receiver, posted Config, alerts, whether secrets of the platform may be used -> how it went."""


def verify_routes(
    *,
    try_out: TryOut,
    stored: Callable[[], Sequence[Mapping[str, Any]]],
    tenant_of: Callable[[Mapping[str, str]], str],
    clock: Clock,
) -> list[Route]:
    """Return the routes.

    Args:
        try_out: Sends at once.
        stored: Returns the objects that are known, as they were written.
        tenant_of: Labels of an object -> its tenant; "" = everybody's or nobody's.
        clock: Time.
    """

    async def notifications(request: Request) -> Response:
        body = await _body(request)
        found = parse(msgspec.json.encode(body.get("alert")), now=clock.now())
        alerts = [identified(each, "") for each in found]
        if not alerts:
            raise ProtocolError("alert.alerts has no alerts.")
        return await send(body, alerts, "Send alerts successfully")

    async def verify(request: Request) -> Response:
        return await send(await _body(request), [specimen(clock.now())], "Verify successfully")

    async def send(body: Mapping[str, Any], alerts: Sequence[Alert], success: str) -> Response:
        posted = body.get("receiver")
        if not isinstance(posted, dict):
            raise ProtocolError("receiver is required: a Receiver as in a manifest.")
        receiver = notification.decode(posted)[0]
        if problems := notification.validate(posted):
            raise ProtocolError("; ".join(f"receiver.{path}: {message}" for path, message in problems))
        config = None
        if body.get("config") is not None:
            if not isinstance(body["config"], dict):
                raise ProtocolError("config is no object; expected a Config as in a manifest.")
            config = CONFIG.decode(body["config"])[0]
            if problems := CONFIG.validate(body["config"]):
                raise ProtocolError("; ".join(f"config.{path}: {message}" for path, message in problems))
        trusted = config is None and any(
            each.get("kind") == "Receiver"
            and each["metadata"].get("name") == receiver.name
            and each.get("spec") == posted.get("spec")
            for each in stored()
        )
        trials = await try_out(receiver, config, alerts, trusted)
        if not trials:
            raise ProtocolError("The receiver has no block that is enabled: nothing was sent.")
        if failed := [trial for trial in trials if not trial.result.ok]:
            return _answer(400, "; ".join(f"{trial.block}: {trial.result.detail}" for trial in failed))
        return _answer(200, success)

    def listed(kind: str, request: Request) -> list[dict[str, Any]]:
        query = request.query_params
        found = []
        for each in stored():
            tenant = tenant_of(each["metadata"].get("labels") or {})
            blocks = each.get("spec") or {}
            if each.get("kind") != kind or query.get("tenant", tenant) != tenant:
                continue
            if query.get("type", next(iter(blocks), "")) not in blocks:
                continue
            if query.get("name", each["metadata"].get("name")) != each["metadata"].get("name"):
                continue
            found.append(redacted(each))
        return found

    async def receivers(request: Request) -> Response:
        return _json(listed("Receiver", request))

    async def configs(request: Request) -> Response:
        return _json(listed("Config", request))

    async def both(request: Request) -> Response:
        return _json(
            [
                {
                    "receiver": receiver,
                    "configs": [
                        config
                        for config in listed("Config", request)
                        if set(config.get("spec") or {}) & set(receiver.get("spec") or {})
                    ],
                }
                for receiver in listed("Receiver", request)
            ]
        )

    async def nothing(_: Request) -> Response:
        return Response(status_code=200)

    return [
        Route("/api/v2/notifications", _guarded(notifications), methods=["POST"]),
        Route("/api/v2/verify", _guarded(verify), methods=["POST"]),
        Route("/receivers", receivers, methods=["GET"]),
        Route("/configs", configs, methods=["GET"]),
        Route("/receiverWithConfig", both, methods=["GET"]),
        # What clients of the original call; objects count at once, and figures are on the API's /metrics.
        Route("/-/reload", nothing, methods=["GET", "POST"]),
        Route("/metrics", nothing, methods=["GET"]),
    ]


def redacted(value: Any) -> Any:
    """Return an object without what may be a secret: literal credentials, addresses, and annotations."""
    if isinstance(value, Mapping):
        return {
            key: "***" if key in _SECRET_FIELDS and isinstance(item, str) else redacted(item)
            for key, item in value.items()
            if key not in ("annotations", "managedFields")
        }
    return [redacted(item) for item in value] if isinstance(value, list) else value


def _guarded(handle: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    async def guarded(request: Request) -> Response:
        try:
            return await handle(request)
        except PayloadTooLargeError as error:
            return _answer(413, error.message)
        except PeltonError as error:
            return _answer(400, error.message)
        except TimeoutError:
            return _answer(408, "The body did not arrive in time.")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return guarded


async def _body(request: Request) -> dict[str, Any]:
    body = await read_body(request, _BODY_LIMIT)
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"The body is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise ProtocolError("The body is no object.")
    return found


def _answer(status: int, message: str) -> Response:
    return _json({"Status": status, "Message": message}, status)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
