"""WSGI applications: Flask, Django, Bottle, Falcon and any `def application(environ, start_response)`.

Found by `builders/detect.py`, which asks `sdk/app_objects.py` (which objects count, which win, and why a
Django project is WSGI unless asked for otherwise), and loaded by `dataplane/loader.py`. The engine is
`sdk/wsgi.py`.
Events reach the application as a POST request to `/` with `ce-` headers; a 2xx answer accepts them.
"""

from __future__ import annotations

from typing import Final

from pelton.model.convention import Facts, Match, Tree
from pelton.model.invocation import LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks
from pelton.sdk.app_target import import_app
from pelton.sdk.wsgi import caller

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "wsgi"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="WSGI",
    looks_for="a module-level object of Flask, Bottle, Falcon, Django's get_wsgi_application or the like, or "
    "def application(environ, start_response)",
    triggers="HTTP",
    input="environ, start_response",
    output="an iterable of bytes",
    address="a WSGI server, e.g. gunicorn",
    protocol="HTTP",
    port="the server's, 8000",
    code="any module, named module:attribute; app, application or api",
    forms={
        "http": "environ",
        "cloudevent": "environ, HTTP_CE_ variables",
        "timer": "environ, HTTP_CE_ variables",
        "record": "environ, HTTP_CE_ variables",
    },
    failure="500 Internal Server Error before the answer began, a broken connection after",
    concurrency="many (threads)",
)
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the WSGI applications of a tree."""
    from pelton.sdk.app_objects import find  # only builds look for them

    return find(tree, NAME)


def load(request: LoadRequest) -> LoadedFunction:
    """Import the application.

    Raises:
        FunctionLoadError: There is no such object, or it is no application.
    """
    return LoadedFunction(
        call=caller(import_app(request)),
        sync=True,
        on_error=_crash,
        signature="http",
        target=request.target,
    )


def _crash(exc: BaseException) -> Reply:
    return Reply(500, [_TEXT], b"Internal Server Error", error=tracebacks.reason(exc))
