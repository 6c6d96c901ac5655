import asyncio
import dataclasses
import uuid
from datetime import UTC, datetime
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import pytest

from pelton.sdk.request import HTTPError
from pelton.sdk.response import Response, http_error_reply, to_reply

HTML = (b"content-type", b"text/html; charset=utf-8")
JSON = (b"content-type", b"application/json")


@dataclasses.dataclass
class Point:
    x: int


@pytest.mark.parametrize(
    ("value", "header", "body"),
    [
        ("\u00e4", HTML, "\u00e4".encode()),
        (b"\x00", HTML, b"\x00"),
        (bytearray(b"x"), HTML, b"x"),
        ({"b": 1, "a": [True, None]}, JSON, b'{"a":[true,null],"b":1}\n'),
        ([1, "\u00e4"], JSON, b'[1,"\\u00e4"]\n'),
        ({"p": Point(1), "d": Decimal("1.5"), "u": uuid.UUID(int=1)}, JSON, None),
    ],
)
def test_plain_values_become_what_flask_makes_of_them(value, header, body):
    reply = to_reply(value)

    assert (reply.status, reply.headers) == (200, [header])
    assert body is None or reply.body == body


def test_dates_are_http_dates_in_json():
    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

    assert to_reply([moment, moment.date()]).body == (
        b'["Fri, 02 Jan 2026 03:04:05 GMT","Fri, 02 Jan 2026 00:00:00 GMT"]\n'
    )


@pytest.mark.parametrize(
    ("value", "status", "headers"),
    [
        (("x", 201), 201, [HTML]),
        (("x", "404 NOT FOUND"), 404, [HTML]),
        (("x", HTTPStatus.GONE), 410, [HTML]),
        (("x", {"X-A": "1"}), 200, [HTML, (b"x-a", b"1")]),
        (("x", [("X-A", "1"), ("X-A", "2")]), 200, [HTML, (b"x-a", b"1"), (b"x-a", b"2")]),
        (({"a": 1}, 202, {"Content-Type": "text/x"}), 202, [(b"content-type", b"text/x")]),
        (
            Response("x", 418, {"X-A": "1"}, "text/plain"),
            418,
            [(b"content-type", b"text/plain"), (b"x-a", b"1")],
        ),
    ],
)
def test_status_and_headers_come_with_tuples_and_responses(value, status, headers):
    reply = to_reply(value)

    assert (reply.status, reply.headers) == (status, headers)


@pytest.mark.parametrize(
    "value", [None, 1, 1.5, object(), ("x",), ("x", 1, {}, 4), ("x", 7), ("x", "abc"), {"a": object()}]
)
def test_what_is_no_answer_is_a_type_error(value):
    with pytest.raises(TypeError, match="the function returned"):
        to_reply(value)


def test_line_break_in_a_header_is_refused():
    with pytest.raises(ValueError, match="line break"):
        to_reply(("x", {"X-A": "1\r\nX-B: 2"}))


async def collect(reply):
    return [chunk async for chunk in reply.body]


async def test_generators_stream_and_are_closed():
    closed = []

    def plain():
        try:
            yield "a"
            yield b"b"
        finally:
            closed.append("plain")

    async def coroutine():
        yield "c"

    assert await collect(to_reply(plain())) == [b"a", b"b"]
    assert await collect(to_reply(coroutine())) == [b"c"]
    assert closed == ["plain"]


async def test_stream_that_is_given_up_closes_its_generator():
    closed = []

    def endless():
        try:
            while True:
                yield "x"
        finally:
            closed.append(True)

    body: Any = to_reply(endless()).body
    await anext(body)
    await body.aclose()

    assert closed == [True]


async def test_plain_generator_may_block_without_stopping_the_loop():
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow():
        asyncio.run_coroutine_threadsafe(event.wait(), loop).result(5)
        yield "late"

    task = asyncio.create_task(collect(to_reply(slow())))
    await asyncio.sleep(0)
    event.set()

    assert await task == [b"late"]


def test_http_errors_become_answers_and_others_do_not():
    reply = http_error_reply(HTTPError(409, "taken"))

    assert reply is not None
    assert (reply.status, reply.body) == (409, b"taken")
    assert http_error_reply(ValueError("x")) is None
