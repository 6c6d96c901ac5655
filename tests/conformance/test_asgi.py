"""Real FastAPI applications behind `pelton run`: requests, streams, lifespan, WebSocket, and what fails."""

import asyncio
import json
import socket
import threading

import httpx
import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

APP = """
import asyncio
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.middleware.gzip import GZipMiddleware
from pydantic import BaseModel

log = []

@asynccontextmanager
async def lifespan(app):
    print("startup", flush=True)
    yield {"name": "from the lifespan"}
    print("shutdown", flush=True)

app = FastAPI(lifespan=lifespan)
app.add_middleware(GZipMiddleware, minimum_size=100_000)

class Item(BaseModel):
    name: str
    price: float

@app.get("/")
async def root(request: Request):
    return {"state": request.state.name, "client": request.client.host}

@app.get("/sync")
def sync():
    return {"sync": True}

@app.post("/items", status_code=201)
async def make(item: Item):
    return {**item.model_dump(), "tax": item.price * 0.2}

@app.post("/weigh")
async def weigh(request: Request):
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return size

@app.get("/stream")
async def stream():
    async def lines():
        for number in range(3):
            yield f"line {number}\\n"
            await asyncio.sleep(0)
    return StreamingResponse(lines(), media_type="text/plain")

@app.get("/endless")
async def endless():
    async def lines():
        try:
            while True:
                yield "x" * 1000
                await asyncio.sleep(0.01)
        finally:
            print("the stream ended", flush=True)
    return StreamingResponse(lines(), media_type="text/event-stream")

@app.get("/wait")
async def wait(request: Request):
    while not await request.is_disconnected():
        await asyncio.sleep(0.005)
    print("disconnected", flush=True)

@app.post("/background")
async def background(tasks: BackgroundTasks):
    async def later():
        await asyncio.sleep(0.05)
        log.append("done")
    tasks.add_task(later)
    return len(log)

@app.get("/log")
async def shown():
    return log

@app.get("/boom")
async def boom():
    raise RuntimeError("secret")

@app.get("/url")
async def url(request: Request):
    return str(request.url_for("shown"))

@app.websocket("/ws/{name}")
async def talk(socket: WebSocket, name: str):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(f"{socket.state.name}, {name}: {text}")
    print("websocket over", flush=True)
"""


class WebSocketClient:
    """A WebSocket client on a socket."""

    def __init__(self, url, path):
        host, _, port = url.rpartition("/")[2].partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
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


def test_fastapi_application_does_everything_it_does_elsewhere(serve):
    served = serve({"main.py": APP}, clients=True)

    assert served.get("/").json() == {"state": "from the lifespan", "client": "127.0.0.1"}
    served.wait_for("^startup$")
    assert served.get("/sync").json() == {"sync": True}
    made = served.post("/items", json={"name": "x", "price": 5})
    assert (made.status_code, made.json()) == (201, {"name": "x", "price": 5.0, "tax": 1.0})
    assert served.post("/items", json={"name": "x"}).status_code == 422
    assert served.get("/missing").status_code == 404
    assert served.request("DELETE", "/items").status_code == 405
    assert served.request("HEAD", "/openapi.json").status_code in (200, 405)
    assert "/items" in served.get("/openapi.json").json()["paths"]
    assert served.get("/url").text == f'"{served.url}/log"'
    behind = served.get("/url", headers={"x-forwarded-prefix": "/default/shop"}).text
    assert behind == f'"{served.url}/default/shop/log"'
    assert served.stop() == 0
    served.wait_for("^shutdown$")


def test_streams_flow_both_ways_and_end_when_the_client_leaves(serve):
    served = serve({"main.py": APP}, clients=True)

    def chunks():
        for _ in range(256):
            yield b"x" * 65536

    answer = served.get("/stream")
    assert (answer.headers["transfer-encoding"], answer.text) == ("chunked", "line 0\nline 1\nline 2\n")
    assert served.post("/weigh", content=chunks()).json() == 256 * 65536
    with httpx.stream("GET", served.url + "/endless", timeout=20) as endless:
        assert next(endless.iter_raw())
    served.wait_for("^the stream ended$")
    try:
        httpx.get(served.url + "/wait", timeout=0.2)
    except httpx.ReadTimeout:
        pass
    served.wait_for("^disconnected$")


def test_background_work_goes_on_behind_the_answer(serve):
    served = serve({"main.py": APP}, clients=True)

    with httpx.Client(base_url=served.url, timeout=20) as client:
        assert client.post("/background").json() == 0
        # The same connection is free at once.
        while client.get("/log").json() != ["done"]:
            pass


def test_exception_is_500_without_its_text_and_its_traceback_is_in_the_log(serve):
    served = serve({"main.py": APP}, clients=True)

    answer = served.get("/boom")

    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    served.wait_for("RuntimeError: secret")


def test_websocket_talks_and_ends(serve):
    served = serve({"main.py": APP}, clients=True)
    client = WebSocketClient(served.url, "/ws/bob")

    assert isinstance(client.next(), AcceptConnection)
    client.send(TextMessage(data="hi"))
    assert client.next().data == "from the lifespan, bob: hi"
    client.send(TextMessage(data="x" * 200_000))
    text = ""
    while len(text) < 200_000:
        text += client.next().data
    # HTTP goes on beside it.
    assert served.get("/sync").json() == {"sync": True}
    client.send(CloseConnection(code=1000))
    assert isinstance(client.next(), CloseConnection)
    client.socket.close()
    served.wait_for("^websocket over$")


def test_websocket_is_closed_when_the_server_stops(serve):
    served = serve({"main.py": APP}, clients=True)
    client = WebSocketClient(served.url, "/ws/bob")
    assert isinstance(client.next(), AcceptConnection)

    threading.Thread(target=served.stop).start()

    closing = client.next()
    assert isinstance(closing, CloseConnection)
    assert closing.code == 1012
    client.socket.close()


def test_startup_that_fails_ends_the_command_and_says_why(serve):
    text = """
    from contextlib import asynccontextmanager
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(app):
        raise ValueError("no database")
        yield

    app = FastAPI(lifespan=lifespan)
    """
    served = serve({"main.py": text}, clients=True)

    served.wait_for("the application's startup failed: ValueError: no database")
    assert served.process.wait(20) != 0


def test_django_project_is_served_as_asgi_where_asked(serve):
    from_project = {
        "manage.py": "",
        "site1/settings.py": """
            SECRET_KEY = "x"
            ALLOWED_HOSTS = ["*"]
            ROOT_URLCONF = "site1.urls"
        """,
        "site1/urls.py": """
            from django.http import JsonResponse
            from django.urls import path

            async def hello(request, name):
                return JsonResponse({"hello": name, "asgi": type(request).__name__})

            urlpatterns = [path("hello/<name>", hello)]
        """,
    }
    for kind in ("asgi", "wsgi"):
        from_project[f"site1/{kind}.py"] = f"""
            import os
            from django.core.{kind} import get_{kind}_application
            os.environ["DJANGO_SETTINGS_MODULE"] = "site1.settings"
            application = get_{kind}_application()
        """
    served = serve(from_project, "--convention", "asgi", clients=True)

    assert served.get("/hello/you").json() == {"hello": "you", "asgi": "ASGIRequest"}


def test_factory_is_called_where_the_target_says_so(serve):
    text = """
    from fastapi import FastAPI

    def build(name="plain"):
        app = FastAPI()
        app.get("/")(lambda: name)
        return app
    """
    served = serve({"shop.py": text}, "--target", 'shop:build("called")', clients=True)
    assert served.get("/").json() == "called"
    served = serve(
        {"shop.py": text},
        *("--target", "shop:build"),
        *("--annotation", "pelton.dev/factory=true"),
        clients=True,
    )
    assert served.get("/").json() == "plain"


def test_event_is_a_request_that_the_application_answers(serve, tmp_path):
    text = """
    from fastapi import FastAPI, Request
    app = FastAPI()

    @app.post("/")
    async def take(request: Request):
        print("SEEN", request.headers["ce-type"], await request.json(), flush=True)
    """
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "order.made", "data": {"a": 1}}
    file = tmp_path / "event.json"
    file.write_text(json.dumps({**event, "datacontenttype": "application/json"}))

    served = serve({"main.py": text}, "--event", str(file), clients=True)

    served.wait_for(r"SEEN order.made \{'a': 1\}")
    assert served.process.wait(20) == 0


def test_many_clients_are_served_at_once(serve):
    served = serve({"main.py": APP}, clients=True)
    url = served.url

    async def all_of_them():
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            return await asyncio.gather(*(client.get("/stream") for _ in range(50)))

    assert {answer.text for answer in asyncio.run(all_of_them())} == {"line 0\nline 1\nline 2\n"}
