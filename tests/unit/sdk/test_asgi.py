"""The ASGI engine against an Answer that only notes what it is given."""

import asyncio
from typing import Any

import pytest

from pelton.errors import FunctionLoadError
from pelton.model.invocation import Event, Invocation, Reply
from pelton.sdk.asgi import Engine, guarantee_single_callable, scope_of


class Noted:
    """An Answer for tests: a list of what happened."""

    def __init__(self, gone=False):
        self.gone = gone
        self.on_gone = None
        self.did = []

    def reply(self, reply):
        self.did.append(("reply", reply.status, reply.headers, reply.body))

    def start(self, reply):
        if self.gone:
            raise ConnectionError("left")
        self.did.append(("start", reply.status, reply.headers))

    async def write(self, chunk):
        if self.gone:
            raise ConnectionError("left")
        self.did.append(chunk)

    def end(self):
        self.did.append("end")

    def leave(self):
        self.gone = True
        if self.on_gone:
            self.on_gone()


def invocation(target=b"/", method="GET", headers=(), **more):
    return Invocation(id="i", method=method, target=target, headers=list(headers), **more)


def start(status=200, headers=()):
    return {"type": "http.response.start", "status": status, "headers": headers}


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


def sends(*messages):
    async def app(scope, receive, send):
        for message in messages:
            await send(message)

    return app


async def serve(app, request=None, **answer):
    noted = Noted(**answer)
    await Engine(app).serve(request or invocation(), noted)
    return noted.did


# --- scope ---


def test_scope_holds_what_the_specification_asks_for():
    request = invocation(
        b"/caf%C3%A9/x%2Fy?q=%20",
        headers=[(b"host", b"shop.example:8080"), (b"x-a", b"1"), (b"x-a", b"2")],
        scheme="https",
        client="10.0.0.1",
    )

    assert scope_of(request, {"db": 1}) == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "https",
        "path": "/café/x/y",
        "raw_path": b"/caf%C3%A9/x%2Fy",
        "query_string": b"q=%20",
        "root_path": "",
        "headers": [(b"host", b"shop.example:8080"), (b"x-a", b"1"), (b"x-a", b"2")],
        "client": ("10.0.0.1", 0),
        "server": ("shop.example", 8080),
        "state": {"db": 1},
    }


@pytest.mark.parametrize(
    ("host", "server"), [(b"shop", ("shop", None)), (b"[::1]:80", ("[::1]", 80)), (b"", ("", None))]
)
def test_server_is_what_the_host_header_says(host, server):
    assert scope_of(invocation(headers=[(b"host", host)]), {})["server"] == server


def test_prefix_of_the_gateway_is_the_root_path_and_part_of_the_path():
    scope = scope_of(invocation(b"/a%20b", headers=[(b"x-forwarded-prefix", b"/default/f/")]), {})

    assert (scope["root_path"], scope["path"], scope["raw_path"]) == (
        "/default/f",
        "/default/f/a b",
        b"/default/f/a%20b",
    )


def test_event_is_a_post_with_ce_headers():
    event = Event(
        kind="topic",
        component="bus",
        component_type="pubsub.jetstream",
        topic="t",
        data=b"{}",
        content_type="application/json",
    )
    seen: dict[str, Any] = {}

    async def app(scope, receive, send):
        seen.update(scope, message=await receive())
        await send(start(204))
        await send(body())

    asyncio.run(Engine(app).call(invocation(event=event)))

    assert (seen["method"], seen["path"], seen["message"]["body"]) == ("POST", "/", b"{}")
    assert (b"ce-source", b"bus") in seen["headers"]


# --- answers ---


async def test_answer_in_one_piece_is_one_reply_without_its_own_length():
    headers = [[b"Content-Type", b"text/plain"], [b"content-length", b"5"]]

    did = await serve(sends(start(201, headers), body(b"hello")))

    assert did == [("reply", 201, [(b"Content-Type", b"text/plain")], b"hello")]


async def test_length_of_a_head_answer_is_kept():
    did = await serve(sends(start(200, [(b"content-length", b"5")]), body()), invocation(method="HEAD"))

    assert did == [("reply", 200, [(b"content-length", b"5")], b"")]


async def test_answer_in_pieces_is_streamed_with_its_length():
    given = [(b"content-length", b"4")]

    did = await serve(sends(start(200, given), body(b"ab", True), body(b"", True), body(bytearray(b"cd"))))

    assert did == [("start", 200, given), b"ab", b"cd", "end"]


async def test_head_of_a_stream_leaves_before_its_first_piece():
    noted, go = Noted(), asyncio.Event()

    async def app(scope, receive, send):
        await send(start(200, [(b"content-type", b"text/event-stream")]))
        await go.wait()
        await send(body(b"data"))

    task = asyncio.create_task(Engine(app).serve(invocation(), noted))
    while not noted.did:
        await asyncio.sleep(0)
    assert noted.did == [("start", 200, [(b"content-type", b"text/event-stream")])]
    go.set()
    await task

    assert noted.did[1:] == [b"data", "end"]


async def test_hints_and_interim_answers_are_ignored():
    hint = {"type": "http.response.early_hint", "links": []}

    did = await serve(sends(hint, start(103), start(200), hint, body(b"x")))

    assert did == [("reply", 200, [], b"x")]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([], "without sending http.response.start"),
        ([start(headers=[(b"content-length", b"0")])], "without sending http.response.body"),
        ([start(), body(b"x", True)], "before the end of its answer"),
        ([body()], "'http.response.body' is not expected"),
        ([start(), start()], "'http.response.start' is not expected"),
        ([start(), body(), body()], "comes too late"),
        ([{"type": "websocket.accept"}], "not expected"),
    ],
)
async def test_wrong_order_of_messages_is_an_error(messages, error):
    with pytest.raises(RuntimeError, match=error):
        await serve(sends(*messages))


async def test_exception_passes_through():
    async def app(scope, receive, send):
        raise ValueError("user's")

    with pytest.raises(ValueError, match="user's"):
        await serve(app)


# --- the client leaves ---


async def test_whole_answer_to_nobody_is_no_error_but_a_streamed_one_is():
    did = await serve(sends(start(), body(b"x")), gone=True)
    assert did == [("reply", 200, [], b"x")]

    with pytest.raises(OSError, match="left"):
        await serve(sends(start(), body(b"x", True)), gone=True)


async def test_application_that_gives_up_for_a_client_that_left_is_no_error():
    assert await serve(sends(), gone=True) == []


async def test_disconnect_is_told_to_all_that_wait_for_it():
    noted, told = Noted(), []

    async def app(scope, receive, send):
        assert (await receive())["type"] == "http.request"
        waiting = [asyncio.create_task(receive()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        noted.leave()
        told.extend([(await task)["type"] for task in waiting[1:]])
        told.append((await receive())["type"])

    await Engine(app).serve(invocation(), noted)

    assert told == ["http.disconnect"] * 3


async def test_end_of_the_answer_ends_waiting_for_a_disconnect():
    async def app(scope, receive, send):
        await receive()
        listener = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await send(start())
        await send(body())
        assert (await listener)["type"] == "http.disconnect"

    await serve(app)


# --- the body ---


async def _read(receive):
    seen = []
    while True:
        message = await receive()
        seen.append(message.get("body", message["type"]))
        if not message.get("more_body"):
            return seen


@pytest.mark.parametrize(
    ("chunks", "error", "expected"),
    [
        ([b"a", b"b"], None, [b"a", b"b", b""]),
        ([b"a"], ConnectionError("left"), [b"a", "http.disconnect"]),
    ],
)
async def test_body_is_read_as_it_arrives(chunks, error, expected):
    async def stream():
        for chunk in chunks:
            yield chunk
        if error:
            raise error

    seen = []

    async def app(scope, receive, send):
        seen.extend(await _read(receive))
        await send(start())
        await send(body())

    await serve(app, invocation(method="POST", stream=stream()))

    assert seen == expected


# --- lifespan ---


def lifespan(log, *, fail=""):
    async def app(scope, receive, send):
        assert scope["type"] == "lifespan"
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["db"] = "open"
        if fail:
            await send({"type": "lifespan.startup.failed", "message": fail})
            raise RuntimeError("as Starlette does")
        await send({"type": "lifespan.startup.complete"})
        log.append("up")
        assert (await receive())["type"] == "lifespan.shutdown"
        log.append("down")
        await send({"type": "lifespan.shutdown.complete"})

    return app


async def test_lifespan_runs_around_everything_and_its_state_is_in_every_scope():
    log: list[str] = []
    engine = Engine(lifespan(log))

    await engine.start()
    await asyncio.sleep(0)
    assert (log, engine.state) == (["up"], {"db": "open"})
    await engine.stop()
    assert log == ["up", "down"]


async def test_startup_that_failed_is_an_error_with_the_applications_words():
    with pytest.raises(FunctionLoadError, match=r"startup failed: ValueError: no database") as caught:
        await Engine(lifespan([], fail="Traceback\nValueError: no database\n"), where="main.py").start()

    assert caught.value.log_tail == ("Traceback", "ValueError: no database")


@pytest.mark.parametrize("kind", ["raises", "takes it for a request", "returns"])
async def test_application_without_lifespan_starts_without(kind):
    async def app(scope, receive, send):
        if kind == "raises":
            raise AssertionError(scope["type"])
        if kind == "takes it for a request":
            await send(start())

    engine = Engine(app)

    await engine.start()
    await engine.stop()


async def test_shutdown_that_failed_is_told(capsys):
    async def app(scope, receive, send):
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "still busy"})

    engine = Engine(app)
    await engine.start()
    await engine.stop()

    assert "shutdown failed: still busy" in capsys.readouterr().err


# --- forms of applications ---


async def test_application_of_asgi_2_is_called_in_two_steps():
    class Old:
        def __init__(self, scope):
            self.scope = scope

        async def __call__(self, receive, send):
            await send(start())
            await send(body(self.scope["path"].encode()))

    assert (await Engine(Old).call(invocation(b"/old"))).body == b"/old"


def test_application_of_asgi_3_is_left_alone():
    class App:
        def __call__(self, scope, receive, send):
            pass

    app = App()

    assert guarantee_single_callable(app) is app


async def test_call_collects_a_streamed_answer():
    reply = await Engine(sends(start(202), body(b"a", True), body(b"b"))).call(invocation())

    assert reply == Reply(202, [], b"ab")
