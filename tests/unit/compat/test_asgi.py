import asyncio

import pytest

from pelton.errors import FunctionLoadError

HELLO = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": scope["path"].encode()})
"""


async def test_application_answers_and_has_hooks_for_everything(load, request_of):
    function = load(HELLO, "asgi", target="app")

    reply = await function.call(request_of(b"/x?y"))

    assert (reply.status, reply.body) == (200, b"/x")
    assert (function.sync, function.streams_body, function.signature, function.target) == (
        *(False, True),
        *("http", "app"),
    )
    assert None not in (function.serve, function.start, function.stop, function.upgrade)


async def test_without_a_target_a_usual_name_is_taken(load, request_of):
    function = load(HELLO.replace("def app", "def application"), "asgi")

    assert (await function.call(request_of(b"/"))).status == 200


async def test_event_is_a_request(load, event_of):
    function = load(HELLO, "asgi", target="app")

    assert (await function.call(event_of())).body == b"/"


def test_missing_application_lists_what_is_there(load):
    with pytest.raises(FunctionLoadError, match="there is no 'other'") as caught:
        load(HELLO, "asgi", target="other")

    assert "app" in caught.value.hint


def test_crash_says_nothing_about_it(load):
    reply = load(HELLO, "asgi", target="app").on_error(ValueError("secret"))

    assert (reply.status, reply.body) == (500, b"Internal Server Error")


class Transport(asyncio.Transport):
    """Notes what is written."""

    def __init__(self):
        super().__init__()
        self.written = b""
        self.closed = asyncio.Event()

    def write(self, data):
        self.written += data

    def close(self):
        self.closed.set()

    def is_closing(self):
        return self.closed.is_set()

    def pause_reading(self):
        pass

    def resume_reading(self):
        pass


WEBSOCKET = """
async def app(scope, receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    words = [scope[key] for key in ("scheme", "client", "root_path", "path", "query_string")]
    await send({"type": "websocket.send", "text": repr(words)})
    await send({"type": "websocket.close"})
"""
# `connection` is more than one header, as the activator leaves it.
HANDSHAKE = [
    (b"host", b"shop"),
    (b"connection", b"Upgrade"),
    (b"upgrade", b"WebSocket"),
    (b"sec-websocket-version", b"13"),
    (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"x-forwarded-prefix", b"/default/f"),
    (b"connection", b"close"),
]


async def test_handshake_is_taken_over_with_what_the_gateway_knows(load, request_of):
    function = load(WEBSOCKET, "asgi", target="app")
    request = request_of(b"/talk?a=1", headers=HANDSHAKE)
    request.scheme, request.client = "https", "10.0.0.9"
    transport = Transport()

    protocol = function.upgrade(request, transport, b"")
    async with asyncio.timeout(30):
        while b"talk" not in transport.written:
            await asyncio.sleep(0)
    protocol.connection_lost(None)

    assert transport.written.startswith(b"HTTP/1.1 101 ")
    seen = "['wss', ('10.0.0.9', 0), '/default/f', '/default/f/talk', b'a=1']"
    assert seen.encode() in transport.written


def test_other_upgrades_are_left_alone(load, request_of):
    function = load(HELLO, "asgi", target="app")

    assert function.upgrade(request_of(headers=[(b"upgrade", b"h2c")]), Transport(), b"") is None
