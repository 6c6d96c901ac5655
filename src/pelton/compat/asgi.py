"""ASGI applications: FastAPI, Starlette, Quart, Django and any `async def app(scope, receive, send)`.

Found by `builders/detect.py`, which asks `sdk/app_objects.py` (which objects count, which win, and why a
Django project is WSGI unless asked for otherwise), and loaded by `dataplane/loader.py`. The engine is
`sdk/asgi.py`; WebSockets are taken over by uvicorn's protocol, `sdk/websocket.py`.
Events reach the application as a POST request to `/` with `ce-` headers; a 2xx answer accepts them.
"""

from __future__ import annotations

from typing import Final

from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import LoadedFunction, LoadRequest
from pelton.sdk.app_target import import_app
from pelton.sdk.asgi import Engine, crash

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "asgi"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="ASGI",
    looks_for="a module-level object of FastAPI, Starlette, Quart, Litestar, BlackSheep, falcon.asgi, "
    "Django's get_asgi_application or the like, or async def app(scope, receive, send)",
    triggers="HTTP; WebSocket",
    input="scope, receive, send",
    output="messages",
    address="an ASGI server, e.g. uvicorn",
    protocol="HTTP, WebSocket",
    port="the server's, 8000",
    code="any module, named module:attribute; app, application or api",
    forms={
        "http": "http scope",
        "cloudevent": "http scope, ce- headers",
        "timer": "http scope, ce- headers",
        "record": "http scope, ce- headers",
    },
    failure="500 Internal Server Error before the answer began, a broken connection after",
    concurrency="many (one event loop)",
)


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the ASGI applications of a tree."""
    from pelton.sdk.app_objects import find  # only builds look for them

    return find(tree, NAME)


def load(request: LoadRequest) -> LoadedFunction:
    """Import the application and start its engine.

    Raises:
        FunctionLoadError: There is no such object, or it is no application.
    """
    from pelton.sdk import websocket  # not for functions of other conventions

    if websocket.mentioned(request.bundle):
        websocket.load()
    engine = Engine(import_app(request), where=request.source)
    return LoadedFunction(
        call=engine.call,
        serve=engine.serve,
        sync=False,
        streams_body=True,
        on_error=crash,
        signature="http",
        target=request.target,
        start=engine.start,
        stop=engine.stop,
        upgrade=websocket.upgrader(engine),
    )
