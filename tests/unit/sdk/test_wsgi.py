"""The WSGI engine: applications called as a worker calls them."""

import contextvars
import sys

import pytest

from pelton.model.invocation import Event, Invocation
from pelton.sdk.wsgi import caller


def invocation(target=b"/", method="GET", headers=(), **more):
    return Invocation(id="i", method=method, target=target, headers=list(headers), **more)


def call(app, request=None):
    return caller(app)(request or invocation())


async def chunks(reply):
    return [chunk async for chunk in reply.body]


def test_environ_is_that_of_the_pep():
    seen: dict[str, object] = {}

    def app(environ, start_response):
        seen.update(environ, body=environ["wsgi.input"].read())
        start_response("201 Created", [("X-A", "1"), ("X-A", "2")])
        return [b"a", b"b"]

    reply = call(
        app,
        invocation(
            b"/caf%C3%A9?q=1",
            "POST",
            [(b"host", b"shop:81"), (b"content-type", b"text/plain"), (b"x-b", b"3")],
            body=b"body",
            scheme="https",
        ),
    )

    assert (reply.status, reply.headers, reply.body) == (201, [(b"x-a", b"1"), (b"x-a", b"2")], b"ab")
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/café".encode().decode("latin-1"),
        "QUERY_STRING": "q=1",
        "SERVER_NAME": "shop",
        "SERVER_PORT": "81",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "4",
        "HTTP_X_B": "3",
        "wsgi.url_scheme": "https",
        "body": b"body",
    }
    assert {name: seen[name] for name in expected} == expected


def test_prefix_of_the_gateway_is_the_script_name():
    def app(environ, start_response):
        start_response("200 OK", [])
        return [f"{environ['SCRIPT_NAME']}|{environ['PATH_INFO']}".encode()]

    assert (
        call(app, invocation(b"/x", headers=[(b"x-forwarded-prefix", b"/default/f")])).body
        == b"/default/f|/x"
    )


def test_event_is_a_post_with_ce_variables():
    def app(environ, start_response):
        start_response("204 No Content", [])
        assert environ["HTTP_CE_SOURCE"] == "bus"
        return [environ["REQUEST_METHOD"].encode(), environ["wsgi.input"].read()]

    event = Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="t",
        data=b"1",
        content_type="",
    )

    assert call(app, invocation(event=event)).body == b"POST1"


class Result:
    """An iterable with a `close`, and what happened to it."""

    def __init__(self, *pieces, length=None, streaming=None):
        self.pieces = pieces
        self.length = length
        self.closed = 0
        if streaming is not None:
            self.streaming = streaming

    def __call__(self, environ, start_response):
        headers = [] if self.length is None else [("Content-Length", str(self.length))]
        start_response("200 OK", headers)
        return self

    def __iter__(self):
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("more", [{"length": 2}, {"streaming": False}])
def test_short_answer_is_taken_whole_and_closed(more):
    result = Result(b"a", b"b", **more)

    assert call(result).body == b"ab"
    assert result.closed == 1


async def test_other_answers_are_streamed_and_closed():
    result = Result(b"a", b"", b"b")

    reply = call(result)

    assert result.closed == 0
    assert await chunks(reply) == [b"a", b"", b"b"]
    assert result.closed == 1


def test_empty_iterable_is_an_empty_answer():
    result = Result()

    assert (call(result).body, result.closed) == (b"", 1)


@pytest.mark.parametrize("more", [{}, {"length": 2}])
def test_exception_before_the_answer_passes_through_and_closes(more):
    result = Result(ValueError("user's"), **more)

    with pytest.raises(ValueError, match="user's"):
        call(result)
    assert result.closed == 1


async def test_exception_in_the_middle_ends_the_stream_and_closes():
    result = Result(b"a", ValueError("user's"))

    with pytest.raises(ValueError, match="user's"):
        await chunks(call(result))
    assert result.closed == 1


async def test_stream_that_nobody_reads_on_is_closed():
    result = Result(b"a", b"b", b"c")
    reply = call(result)
    await anext(reply.body)

    await reply.body.aclose()

    assert result.closed == 1


async def test_all_steps_run_in_one_context():
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")

    def app(environ, start_response):
        start_response("200 OK", [])
        token = variable.set("inside")

        def steps():
            yield b"1"
            yield variable.get().encode()
            variable.reset(token)

        return steps()

    assert await chunks(call(app)) == [b"1", b"inside"]
    assert variable.get() == "outside"


def test_what_write_is_given_comes_first():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one ")
        write(b"two ")
        return [b"three"]

    assert call(app).body == b"one two three"


async def test_what_write_is_given_comes_first_in_a_stream():
    def app(environ, start_response):
        write = start_response("200 OK", [])
        write(b"one")
        write(b"two")
        return iter([b"three"])

    assert await chunks(call(app)) == [b"one", b"two", b"three"]


def test_generator_may_call_start_response_as_late_as_for_its_first_piece():
    def app(environ, start_response):
        start_response("418 I'm a teapot", [("X-A", "1")])
        yield b"late"

    reply = call(app)

    assert (reply.status, reply.headers) == (418, [(b"x-a", b"1")])


@pytest.mark.parametrize("result", [[], iter([])])
def test_answer_without_start_response_is_an_error(result):
    with pytest.raises(RuntimeError, match="without calling start_response"):
        call(lambda environ, start_response: result)


def test_error_replaces_an_answer_that_has_not_been_sent():
    def app(environ, start_response):
        start_response("200 OK", [("X-A", "1")])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())
        return [b"sorry"]

    reply = call(app)

    assert (reply.status, reply.headers, reply.body) == (500, [], b"sorry")


def test_second_start_response_without_an_error_is_refused():
    def app(environ, start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    with pytest.raises(AssertionError, match="second time"):
        call(app)


async def test_error_after_the_headers_are_sent_is_raised_again():
    def app(environ, start_response):
        start_response("200 OK", [])
        yield b"half"
        try:
            raise ValueError("user's")
        except ValueError:
            start_response("500 Oops", [], sys.exc_info())

    with pytest.raises(ValueError, match="user's"):
        await chunks(call(app))
