"""Alertmanager's API, version 2: alerts, silences, status and receivers, as routes for the intake's app.

`cli/runtime.py` hands these to `notify/intake.create_app`, which has `POST /api/v2/alerts`; amtool and
dashboards call them. Errors are a JSON text with the status that Alertmanager's clients know. Source:
contracts, log and notification, 9.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any
from uuid import UUID, uuid4

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pelton.cel.regex import Regex
from pelton.clock import Clock, rfc3339
from pelton.errors import OverloadedError, PayloadTooLargeError, PeltonError, ProtocolError
from pelton.model.matching import Matcher, parse_matcher
from pelton.model.notification import compile_pattern
from pelton.notify.alert import Alert
from pelton.notify.alert_table import AlertTable, Tracked
from pelton.notify.intake import read_body
from pelton.notify.muting import KeptBack, Placed
from pelton.notify.silences import PostedSilence, SilenceBook, UnknownSilenceError

__all__ = ["alertmanager_routes"]

_BODY_LIMIT = 256 * 1024
_AT_ONCE = 100  # alerts of a list
_TRUE = frozenset({"true", "1", "yes", "ok", "y", "on", "selected", "checked", "t", "enabled"})


class _PostedMatcher(msgspec.Struct, rename="camel"):
    name: str
    value: str
    is_regex: bool
    is_equal: bool | None = True


class _Posted(msgspec.Struct, rename="camel"):
    matchers: Annotated[list[_PostedMatcher], msgspec.Meta(min_length=1)]
    starts_at: datetime
    ends_at: datetime
    created_by: str
    comment: str
    id: str | None = None


_posted = msgspec.json.Decoder(_Posted)


def alertmanager_routes(
    *,
    table: AlertTable,
    book: SilenceBook,
    receivers: Callable[[], Sequence[str]],
    placing: Callable[[], Callable[[Alert], Placed]],
    silences_changed: Callable[[], None] = lambda: None,
    clock: Clock,
    new_id: Callable[[], str] = lambda: str(uuid4()),
) -> list[Route]:
    """Return the routes.

    Args:
        table: What fires.
        book: Silences of this API.
        receivers: Returns the names of all receivers.
        placing: Returns what says of alerts where they would go, and what keeps them back.
        silences_changed: Is called after each change of the silences.
        clock: Time.
        new_id: Returns a fresh UUID.
    """
    started = clock.now()

    async def alerts(request: Request) -> Response:
        query = request.query_params
        receiver = _pattern(query.get("receiver", ""))
        return _json(
            [
                _encoded(item, placed)
                async for item, placed in listed(query)
                if receiver is None or any(receiver.fullmatch(name) for name in placed.receivers)
            ]
        )

    async def groups(request: Request) -> Response:
        query = request.query_params
        receiver = _pattern(query.get("receiver", ""))
        found: dict[tuple[str, tuple[tuple[str, str], ...]], list[msgspec.Raw]] = {}
        async for item, placed in listed(query):
            shown = _encoded(item, placed)
            for name, labels in placed.groups:
                if receiver is None or receiver.fullmatch(name):
                    found.setdefault((name, tuple(labels.items())), []).append(shown)
        return _json(
            [
                {"alerts": alerts, "labels": dict(labels), "receiver": {"name": name}}
                for (name, labels), alerts in sorted(found.items(), key=lambda each: each[0])
            ]
        )

    async def listed(query: QueryParams) -> AsyncIterator[tuple[Tracked, Placed]]:
        """Yield what fires and what the query's flags and matchers pick."""
        wanted = [parse_matcher(text) for text in query.getlist("filter")]
        placed_now = placing()
        for number, item in enumerate(table.firing(clock.now())):
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)  # a hundred thousand take seconds, and alerts are sent on this loop
            if all(matcher.matches(item.alert.labels) for matcher in wanted):
                placed = placed_now(item.alert)
                if _wanted(query, placed.kept):
                    yield item, placed

    async def silences(request: Request) -> Response:
        wanted = [parse_matcher(text) for text in request.query_params.getlist("filter")]
        now = clock.now()
        # As in Alertmanager a filter names whole matchers: it does not ask what they would match.
        found = [silence for silence in book.list() if all(each in silence.matchers for each in wanted)]
        found.sort(key=lambda silence: _turn(silence, now))
        return _json([_silence(silence, now) for silence in found])

    async def make(request: Request) -> Response:
        try:
            posted = _posted.decode(await read_body(request, _BODY_LIMIT))
        except msgspec.ValidationError as error:
            return _json(f"The body is no silence: {error}.", 422)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProtocolError(f"The body is no silence: {error}.") from error
        silence = PostedSilence(
            id=posted.id or "",
            matchers=tuple(
                Matcher(
                    name=each.name,
                    value=each.value,
                    is_regex=each.is_regex,
                    is_equal=each.is_equal is not False,
                )
                for each in posted.matchers
            ),
            starts_at=_utc(posted.starts_at),
            ends_at=_utc(posted.ends_at),
            updated_at=clock.now(),
            created_by=posted.created_by,
            comment=posted.comment,
        )
        made = await book.put(silence, now=clock.now(), new_id=new_id())
        silences_changed()
        return _json({"silenceID": made})

    async def one(request: Request) -> Response:
        silence = book.get(_id(request))
        return _json("silence not found", 404) if silence is None else _json(_silence(silence, clock.now()))

    async def expire(request: Request) -> Response:
        await book.expire(_id(request), now=clock.now())
        silences_changed()
        return Response(status_code=200)

    async def status(_: Request) -> Response:
        names = "".join(f"- name: {msgspec.json.encode(name).decode()}\n" for name in receivers())
        release = {"version": version("pelton")} | dict.fromkeys(
            ("branch", "buildDate", "buildUser", "goVersion", "revision"), ""
        )
        return _json(
            {
                "cluster": {"name": "", "status": "disabled", "peers": []},
                "config": {"original": f"receivers:\n{names}" if names else "receivers: []\n"},
                "uptime": rfc3339(started, fraction=True),
                "versionInfo": release,
            }
        )

    async def named(_: Request) -> Response:
        return _json([{"name": name} for name in receivers()])

    return [
        Route("/api/v2/alerts", _guarded(alerts), methods=["GET"]),
        Route("/api/v2/alerts/groups", _guarded(groups), methods=["GET"]),
        Route("/api/v2/silences", _guarded(silences), methods=["GET"]),
        Route("/api/v2/silences", _guarded(make), methods=["POST"]),
        Route("/api/v2/silence/{id}", _guarded(one), methods=["GET"]),
        Route("/api/v2/silence/{id}", _guarded(expire), methods=["DELETE"]),
        Route("/api/v2/status", _guarded(status), methods=["GET"]),
        Route("/api/v2/receivers", _guarded(named), methods=["GET"]),
    ]


def _guarded(handle: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Answer with a status of its own what a client may do wrong."""

    async def guarded(request: Request) -> Response:
        try:
            answer: Response = await handle(request)
        except UnknownSilenceError:
            return _json("silence not found", 404)
        except _MalformedIdError as error:
            return _json(str(error), 422)
        except OverloadedError as error:
            return _json(error.message, 503)
        except PayloadTooLargeError as error:
            return _json(error.message, 413)
        except TimeoutError:
            return _json("The body did not arrive in time.", 408)
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except PeltonError as error:
            return _json(error.message, 400)
        return answer

    return guarded


class _MalformedIdError(ValueError):
    """What a path has in place of a silence's id cannot be one."""


def _id(request: Request) -> str:
    text: str = request.path_params["id"]
    try:
        UUID(text)
    except ValueError as error:
        raise _MalformedIdError(f"silenceID in path must be of type uuid: {text[:80]!r}") from error
    return text


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ProtocolError("startsAt and endsAt need a time zone, e.g. 2026-01-02T03:04:05Z.")
    try:
        return moment.astimezone(UTC)
    except OverflowError as error:
        raise ProtocolError("startsAt and endsAt must be in the years 1 to 9999, in UTC too.") from error


def _pattern(text: str) -> Regex | None:
    try:
        return compile_pattern(text) if text else None
    except ValueError as error:
        raise ProtocolError(f"receiver is no regular expression: {error}.") from error


def _flag(text: str | None) -> bool:
    # What Alertmanager takes for true; anything else is false, and nothing is the default.
    return not text or text.lower() in _TRUE


def _wanted(query: Mapping[str, str], kept: KeptBack) -> bool:
    """Tell whether a list shall have an alert with this state; each flag is true where it is left out."""
    if not kept:
        return _flag(query.get("active"))
    silenced = bool(kept.silences or kept.posted)
    return (not silenced or _flag(query.get("silenced"))) and (
        not kept.inhibited_by or _flag(query.get("inhibited"))
    )


def _alert(item: Tracked, placed: Placed) -> dict[str, Any]:
    alert, kept = item.alert, placed.kept
    return {
        "labels": alert.labels,
        "annotations": alert.annotations,
        "startsAt": alert.starts_at,
        "endsAt": _moment(item.ends),
        "updatedAt": _moment(item.updated),
        "generatorURL": alert.generator_url,
        "fingerprint": alert.fingerprint,
        "receivers": [{"name": name} for name in placed.receivers],
        "status": {
            "state": "suppressed" if kept else "active",
            "silencedBy": [*kept.silences, *kept.posted],
            "inhibitedBy": [kept.inhibited_by] if kept.inhibited_by else [],
            "mutedBy": [],
        },
    }


def _turn(silence: PostedSilence, now: datetime) -> tuple[int, float]:
    """Return its place in a list: what ends next, what begins next, what ended last."""
    match silence.state(now):
        case "active":
            return 0, silence.ends_at.timestamp()
        case "pending":
            return 1, silence.starts_at.timestamp()
    return 2, -silence.ends_at.timestamp()


def _encoded(item: Tracked, placed: Placed) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(_alert(item, placed)))


def _silence(silence: PostedSilence, now: datetime) -> dict[str, Any]:
    return {
        "id": silence.id,
        "status": {"state": silence.state(now)},
        "matchers": [
            {
                "name": each.name,
                "value": each.value,
                "isRegex": each.is_regex,
                "isEqual": each.is_equal,
            }
            for each in silence.matchers
        ],
        "startsAt": rfc3339(silence.starts_at, fraction=True),
        "endsAt": rfc3339(silence.ends_at, fraction=True),
        "updatedAt": rfc3339(silence.updated_at, fraction=True),
        "createdBy": silence.created_by,
        "comment": silence.comment,
    }


def _moment(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC), fraction=True)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json")
