"""A WebSocket through the whole platform: gateway, wake from zero, uvicorn's protocol in the worker."""

import socket

import pytest
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

ECHO = """
import json

async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await receive()
        if scope["path"].endswith("/no"):
            await send({"type": "websocket.close"})
            return
        await send({"type": "websocket.accept"})
        seen = {key: scope[key] for key in ("path", "root_path", "scheme", "client")}
        await send({"type": "websocket.send", "text": json.dumps(seen)})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"].upper()})
    elif scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"plain"})
    else:
        raise RuntimeError("no lifespan here")
"""
HELLO = "def main(request):\n    return 'hello'\n"


class Client:
    """A WebSocket client on a socket."""

    def __init__(self, platform, path):
        host, _, port = platform.endpoints["gateway"].rpartition("/")[2].partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=30)
        self.protocol = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self.events = []
        self.send(Request(host=f"{host}:{port}", target=path))

    def send(self, event):
        self.socket.sendall(self.protocol.send(event))

    def next(self):
        while not self.events:
            self.protocol.receive_data(self.socket.recv(65536) or None)
            self.events += self.protocol.events()
        return self.events.pop(0)

    def say(self, text):
        self.send(TextMessage(data=text))
        return self.next().data

    def close(self):
        self.send(CloseConnection(code=1000))
        answer = self.next()
        self.socket.close()
        return answer


def test_websocket_wakes_a_function_and_keeps_it_awake_beyond_all_time_limits(shared):
    shared.apply("echo", ECHO, env={"FUNC_NAME": "app"}, annotations={"pelton.dev/request-timeout": "1s"})
    shared.apply("other", HELLO)
    assert shared.function("echo")["instances"] == 0

    client = Client(shared, "/default/echo/talk?x=1")

    assert isinstance(client.next(), AcceptConnection)
    seen = client.next().data
    assert '"path": "/default/echo/talk", "root_path": "/default/echo", "scheme": "ws"' in seen
    assert '"client": ["127.0.0.1", 0]' in seen
    assert client.say("hello") == "HELLO"
    # What is idle for as long goes to zero, and the time limit of requests has passed several times.
    assert shared.request("other").status_code == 200
    shared.until_at_zero("other")
    assert shared.function("echo")["instances"] == 1
    assert client.say("still there") == "STILL THERE"
    assert isinstance(client.close(), CloseConnection)
    shared.until_at_zero("echo")


def test_refused_websocket_is_an_http_error_and_the_gateway_goes_on(shared):
    shared.apply("choosy", ECHO, env={"FUNC_NAME": "app"})

    client = Client(shared, "/default/choosy/no")

    answer = client.next()
    assert isinstance(answer, RejectConnection)
    assert answer.status_code == 403
    client.socket.close()
    assert shared.request("choosy").text == "plain"
    warm = Client(shared, "/default/choosy/yes")
    assert isinstance(warm.next(), AcceptConnection)
    warm.next()
    assert warm.say("warm") == "WARM"
    warm.close()


def test_function_without_websockets_answers_the_request_as_usual(shared):
    shared.apply("plain", HELLO)

    client = Client(shared, "/default/plain")

    answer = client.next()
    assert isinstance(answer, RejectConnection)
    assert answer.status_code == 200
    client.socket.close()
