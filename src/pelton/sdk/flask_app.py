"""The bridge to a real Flask, where the function's own environment has it.

Pelton does not depend on Flask: it is imported here after the worker entered the function's environment, and
only if user code mentions it. Called by `compat/gcf/`, `compat/openfunction.py` and, for rare attributes,
`sdk/request.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from pelton.model.invocation import Invocation, Reply
from pelton.sdk.response import to_reply

__all__ = ["FlaskApp", "environ", "find_flask", "open_app", "plain_request"]

_METHODS: Final = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]


def environ(invocation: Invocation) -> dict[str, Any]:
    """Return the WSGI environment of an invocation."""
    raw = invocation.target
    if not raw.startswith(b"/") and b"://" in raw:
        raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
    path, _, query = raw.partition(b"?")
    host, _, port = (invocation.header(b"host") or b"localhost").decode("latin-1").partition(":")
    found: dict[str, Any] = {
        "REQUEST_METHOD": invocation.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "RAW_URI": raw.decode("latin-1"),
        "REQUEST_URI": raw.decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": port or ("443" if invocation.scheme == "https" else "80"),
        "SERVER_PROTOCOL": f"HTTP/{invocation.http_version}",
        "REMOTE_ADDR": invocation.client,
        "CONTENT_LENGTH": str(len(invocation.body)),
        "wsgi.url_scheme": invocation.scheme,
        "wsgi.input": io.BytesIO(invocation.body),
        "wsgi.errors": sys.stderr,
        **_SAME,
    }
    names = _names
    for key, value in invocation.headers:
        name = names.get(key) or _name(key)
        text = value.decode("latin-1")
        if name in found and name.startswith("HTTP_"):
            joint = "; " if name == "HTTP_COOKIE" else ","
            text = f"{found[name]}{joint}{text}"
        elif name == "CONTENT_LENGTH":
            continue
        found[name] = text
    return found


_SAME: Final[dict[str, Any]] = {
    "wsgi.version": (1, 0),
    "wsgi.input_terminated": True,
    "wsgi.multithread": True,
    "wsgi.multiprocess": True,
    "wsgi.run_once": False,
}
_names: dict[bytes, str] = {}
"""Header name -> key of the WSGI environment; bounded, since clients choose the names."""


def _name(key: bytes) -> str:
    text = key.decode("latin-1").upper().replace("-", "_")
    name = text if text in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{text}"
    if len(_names) < 512:
        _names[key] = name
    return name


_absent = False
"""Whether this process looked for Flask and found none; looking costs 25 us, per request too much."""


def find_flask() -> Any:
    """Return the flask module, importing it; None where the environment has none."""
    global _absent
    if "flask" in sys.modules:
        return sys.modules["flask"]
    if _absent or importlib.util.find_spec("flask") is None:
        _absent = True
        return None
    return importlib.import_module("flask")


def plain_request(invocation: Invocation) -> Any:
    """Return a `flask.Request` outside any application context, or None where there is no Flask."""
    flask = find_flask()
    return None if flask is None else flask.Request(environ(invocation))


def open_app(name: str, folder: str, source: str) -> FlaskApp | None:
    """Return an application for user code that uses Flask; None when it does not, or Flask is not there.

    Args:
        name: Module name of the function.
        folder: Directory of the source file; `templates` beside it is the template folder.
        source: Path of the source file. Naming flask anywhere in it counts, since it may be imported in a
            function.
    """
    if "flask" not in sys.modules:
        with open(source, "rb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
            if b"flask" not in file.read():
                return None
    flask = find_flask()
    return None if flask is None else FlaskApp(flask, name, folder)


class _Adapter:
    """Stands for Flask's URL adapter of one request, which takes two fifths of what a request costs in Flask.

    There is one function, so which rule a path matches need not be searched for. The real adapter is made for
    the few paths that have another answer, and when somebody wants more of it, such as `url_for`.
    """

    __slots__ = ("_make", "_real", "_request", "_rules")

    def __init__(self, request: Any, rules: list[Any], make: Callable[[Any], Any]) -> None:
        self._request = request
        self._rules = rules
        self._make = make
        self._real: Any = None

    def match(self, *arguments: Any, return_rule: bool = False, **more: Any) -> Any:
        request = self._request
        path = request.path
        if (
            not return_rule
            or arguments
            or more
            or not request.environ["PATH_INFO"]  # this and the next: a redirection
            or "//" in path
            or "\n" in path  # no rule takes it
            or path.startswith("/static/")
            or request.method not in _METHODS
            or request.environ.get("HTTP_UPGRADE")
        ):
            return self._adapter().match(*arguments, return_rule=return_rule, **more)
        return (self._rules[0], {"path": ""}) if path == "/" else (self._rules[1], {"path": path[1:]})

    def _adapter(self) -> Any:
        if self._real is None:
            self._real = self._make(self._request)
        return self._real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter(), name)


class FlaskApp:
    """One Flask application around one function: both contexts, `flask.request`, `jsonify`."""

    def __init__(self, flask: Any, name: str, folder: str) -> None:
        self._flask = flask
        self.app = flask.Flask(name, root_path=folder, template_folder=f"{folder}/templates")
        self.app.add_url_rule("/", endpoint="run", defaults={"path": ""}, methods=_METHODS)
        self.app.add_url_rule("/<path:path>", endpoint="run", methods=_METHODS)
        rules = sorted(self.app.url_map.iter_rules("run"), key=lambda rule: len(rule.rule))
        make = self.app.create_url_adapter

        def create_url_adapter(asked: Any, *others: Any, **more: Any) -> Any:
            plain = asked is not None and not others and not more and not self.app.config.get("TRUSTED_HOSTS")
            return _Adapter(asked, rules, make) if plain else make(asked, *others, **more)

        self.app.create_url_adapter = create_url_adapter

    def call(self, invocation: Invocation, function: Callable[[Any], Any], none_body: bytes | None) -> Reply:
        """Call a function with the request inside its contexts and return the answer.

        Args:
            invocation: The invocation.
            function: Takes the `flask.Request`.
            none_body: Body that stands for None, or None to treat it as Flask does (TypeError).
        """
        with self.app.request_context(environ(invocation)):
            return self._reply(function(self._request()), none_body)

    async def call_async(
        self, invocation: Invocation, function: Callable[[Any], Awaitable[Any]], none_body: bytes | None
    ) -> Reply:
        """Do the same for a coroutine function; contexts are per task."""
        with self.app.request_context(environ(invocation)):
            return self._reply(await function(self._request()), none_body)

    def _request(self) -> Any:
        return self._flask.request._get_current_object()

    def _reply(self, value: Any, none_body: bytes | None) -> Reply:
        if isinstance(value, Reply):
            return value
        if value is None and none_body is not None:
            value = none_body
        if hasattr(value, "__aiter__"):
            return to_reply(value)
        return to_reply(self.app.process_response(self.app.make_response(value)))
