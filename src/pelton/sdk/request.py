"""The light HTTP request: flask.Request's common surface, nothing parsed before it is asked for.

Used by the conventions whose platforms hand over a Flask request (`compat/gcf/`, `compat/openfunction.py`)
when user code does not import Flask itself: a handler that reads nothing costs one small object. A name that
is not here comes from the real `flask.Request` where the function's environment has Flask, else the error
says to add it.
Source: behaviour of flask.Request (Flask 3, Werkzeug 3).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar, overload
from urllib.parse import parse_qsl, unquote

from pelton.model.invocation import Invocation

__all__ = ["Authorization", "FileStorage", "HTTPError", "Headers", "MultiDict", "Request", "UserAgent"]

T = TypeVar("T")
D = TypeVar("D")
_UNSET: Final = object()
_FORM_TYPES: Final = ("application/x-www-form-urlencoded", "multipart/form-data")


class HTTPError(Exception):
    """An answer raised instead of returned, e.g. 400 for a body that is no JSON.

    Args:
        status: HTTP status.
        message: Body of the answer, one sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class MissingKeyError(HTTPError, KeyError):
    """A field that the function asked for is not there: 400, and a KeyError for who catches it."""

    def __init__(self, key: str) -> None:
        HTTPError.__init__(self, 400, f"the request has no field {key!r}")

    def __str__(self) -> str:
        return self.message


class _Lazy(Generic[T]):
    """Compute an attribute once, on first use; functools.cached_property takes a lock in 3.11."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._name = compute.__name__
        self.__doc__ = compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> _Lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> _Lazy[T] | T:
        if instance is None:
            return self
        value = self._compute(instance)
        instance.__dict__[self._name] = value
        return value


class MultiDict(Mapping[str, Any]):
    """A mapping whose keys may have several values; plain access gives the first.

    Args:
        pairs: (key, value) in order of appearance.
    """

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        self._lists: dict[str, list[Any]] = {}
        for key, value in pairs:
            self._lists.setdefault(key, []).append(value)

    def __getitem__(self, key: str) -> Any:
        found = self._lists.get(key)
        if found is None:
            raise MissingKeyError(key)
        return found[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lists)

    def __len__(self) -> int:
        return len(self._lists)

    def __contains__(self, key: object) -> bool:
        return key in self._lists

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self.items(multi=True))!r})"

    def get(self, key: str, default: Any = None, type: Callable[[Any], Any] | None = None) -> Any:
        """Return the first value, converted by `type`; the default when absent or not convertible."""
        found = self._lists.get(key)
        if found is None:
            return default
        if type is None:
            return found[0]
        try:
            return type(found[0])
        except (ValueError, TypeError):
            return default

    def getlist(self, key: str, type: Callable[[Any], Any] | None = None) -> list[Any]:
        """Return all values of a key; values that `type` refuses are left out."""
        found = self._lists.get(key, [])
        if type is None:
            return list(found)
        converted = []
        for value in found:
            try:
                converted.append(type(value))
            except (ValueError, TypeError):
                continue
        return converted

    def items(self, multi: bool = False) -> Any:
        """Return (key, first value) pairs, or every pair when `multi`."""
        if multi:
            return [(key, value) for key, values in self._lists.items() for value in values]
        return [(key, values[0]) for key, values in self._lists.items()]

    def values(self) -> Any:
        """Return the first value of each key."""
        return [values[0] for values in self._lists.values()]

    def lists(self) -> list[tuple[str, list[Any]]]:
        """Return (key, all values) pairs."""
        return [(key, list(values)) for key, values in self._lists.items()]

    def to_dict(self, flat: bool = True) -> dict[str, Any]:
        """Return a dict of first values, or of lists when not `flat`."""
        return {key: values[0] if flat else list(values) for key, values in self._lists.items()}


class Headers:
    """Request headers: names in any case, values as text; iteration gives (Name, value) pairs.

    Args:
        raw: Lower-case names and values as bytes, wire order.
    """

    def __init__(self, raw: list[tuple[bytes, bytes]]) -> None:
        self._raw = raw

    def _find(self, name: str) -> str | None:
        wanted = name.lower().encode("latin-1", "replace")
        values = [value for key, value in self._raw if key == wanted]
        if not values:
            return None
        # A server gateway joins repeated headers with commas, except cookies.
        return (b"; " if wanted == b"cookie" else b",").join(values).decode("latin-1")

    def __getitem__(self, name: str) -> str:
        found = self._find(name)
        if found is None:
            raise MissingKeyError(name)
        return found

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.items())

    def __len__(self) -> int:
        return len({key for key, _ in self._raw})

    def __repr__(self) -> str:
        return f"Headers({self.items()!r})"

    def get(self, name: str, default: Any = None, type: Callable[[str], Any] | None = None) -> Any:
        """Return a header's value, converted by `type`; the default when absent or not convertible."""
        found = self._find(name)
        if found is None:
            return default
        if type is None:
            return found
        try:
            return type(found)
        except (ValueError, TypeError):
            return default

    def getlist(self, name: str) -> list[str]:
        """Return all values of a header."""
        wanted = name.lower().encode("latin-1", "replace")
        return [value.decode("latin-1") for key, value in self._raw if key == wanted]

    get_all = getlist

    def items(self) -> list[tuple[str, str]]:
        """Return (Name, value) pairs, names in title case, repeated headers joined."""
        names = dict.fromkeys(key for key, _ in self._raw)
        return [(name.decode("latin-1").title(), self[name.decode("latin-1")]) for name in names]

    def keys(self) -> list[str]:
        """Return the names in title case."""
        return [name for name, _ in self.items()]

    def values(self) -> list[str]:
        """Return the values in the order of `keys`."""
        return [value for _, value in self.items()]


class FileStorage:
    """One uploaded file of a multipart form."""

    def __init__(self, name: str, filename: str, content_type: str, data: bytes) -> None:
        self.name = name
        self.filename = filename
        self.content_type = content_type
        self.mimetype = content_type.partition(";")[0].strip().lower()
        self.content_length = len(data)
        self.stream = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes; -1 for the rest."""
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the read position."""
        return self.stream.seek(offset, whence)

    def save(self, destination: Any) -> None:
        """Write the rest of the file to a path or a writable object."""
        if hasattr(destination, "write"):
            destination.write(self.stream.read())
            return
        with open(destination, "wb") as file:  # noqa: PTH123 -- pathlib costs a worker 8 ms of imports
            file.write(self.stream.read())


class UserAgent(str):
    """The User-Agent header; `.string` as in Flask."""

    __slots__ = ()

    @property
    def string(self) -> str:
        """The header's value."""
        return str(self)


class Authorization:
    """The Authorization header: `type` (lower case), and `username`/`password` or `token`."""

    def __init__(self, value: str) -> None:
        scheme, _, rest = value.partition(" ")
        self.type = scheme.lower()
        self.token: str | None = None
        self.username: str | None = None
        self.password: str | None = None
        if self.type == "basic":
            import base64
            import binascii

            try:
                user, _, secret = base64.b64decode(rest).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return
            self.username, self.password = user, secret
        else:
            self.token = rest.strip()


class Request:
    """What a function gets as `request`.

    Args:
        invocation: The invocation; its body must be whole.
    """

    def __init__(self, invocation: Invocation) -> None:
        self._invocation = invocation

    def __repr__(self) -> str:
        return f"<Request {self.url!r} [{self.method}]>"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        from pelton.sdk import flask_app

        real = flask_app.plain_request(self._invocation)
        if real is None:
            raise AttributeError(
                f"the request has no attribute {name!r}; with flask in requirements.txt it is a flask.Request"
            )
        return getattr(real, name)

    # What it is --------------------------------------------------------------------------------------------
    @property
    def method(self) -> str:
        """HTTP method, upper case."""
        return self._invocation.method

    @property
    def scheme(self) -> str:
        """`http` or `https`."""
        return self._invocation.scheme

    @property
    def is_secure(self) -> bool:
        """Whether the client used https."""
        return self._invocation.scheme == "https"

    @property
    def remote_addr(self) -> str | None:
        """Client address, or None."""
        return self._invocation.client or None

    @_Lazy
    def access_route(self) -> list[str]:
        """Addresses from X-Forwarded-For, nearest the client first; else the client's."""
        forwarded = self.headers.get("x-forwarded-for")
        if forwarded:
            return [part.strip() for part in forwarded.split(",")]
        return [self._invocation.client] if self._invocation.client else []

    @_Lazy
    def _split(self) -> tuple[str, str]:
        raw = self._invocation.target
        if not raw.startswith(b"/") and b"://" in raw:  # absolute form, as sent to proxies
            raw = b"/" + raw.partition(b"://")[2].partition(b"/")[2]
        path, _, query = raw.partition(b"?")
        return path.decode("latin-1") or "/", query.decode("latin-1")

    @_Lazy
    def path(self) -> str:
        """Path, percent-decoded."""
        return unquote(self._split[0], errors="replace")

    @property
    def query_string(self) -> bytes:
        """Query without the question mark, as received."""
        return self._split[1].encode("latin-1")

    @property
    def full_path(self) -> str:
        """Path with question mark and query; the question mark is always there, as in Flask."""
        return f"{self.path}?{self._split[1]}"

    @property
    def script_root(self) -> str:
        """Always "": functions are served at the root."""
        return ""

    root_path = script_root

    @property
    def host(self) -> str:
        """Host header."""
        return str(self.headers.get("host", "localhost"))

    @property
    def host_url(self) -> str:
        """`scheme://host/`."""
        return f"{self.scheme}://{self.host}/"

    root_url = url_root = host_url

    @property
    def base_url(self) -> str:
        """URL without query."""
        return f"{self.scheme}://{self.host}{self._split[0]}"

    @property
    def url(self) -> str:
        """Whole URL."""
        return f"{self.base_url}?{self._split[1]}" if self._split[1] else self.base_url

    @property
    def view_args(self) -> dict[str, str]:
        """`{"path": path without the leading slash}`, as the frameworks route it."""
        return {"path": self.path.lstrip("/")}

    @property
    def endpoint(self) -> str:
        """Always `run`, as in the frameworks."""
        return "run"

    # Headers -----------------------------------------------------------------------------------------------
    @_Lazy
    def headers(self) -> Headers:
        """Headers, names in any case."""
        return Headers(self._invocation.headers)

    @_Lazy
    def content_type(self) -> str | None:
        """Content-Type header, or None."""
        value: str | None = self.headers.get("content-type")
        return value

    @property
    def mimetype(self) -> str:
        """Media type without parameters, lower case; "" when absent."""
        return (self.content_type or "").partition(";")[0].strip().lower()

    @property
    def mimetype_params(self) -> dict[str, str]:
        """Parameters of the media type."""
        return _parameters(self.content_type or "")

    @property
    def content_length(self) -> int | None:
        """Content-Length header, or None."""
        value: int | None = self.headers.get("content-length", type=int)
        return value

    @property
    def content_encoding(self) -> str | None:
        """Content-Encoding header, or None."""
        value: str | None = self.headers.get("content-encoding")
        return value

    @_Lazy
    def user_agent(self) -> UserAgent:
        """User-Agent header."""
        return UserAgent(self.headers.get("user-agent", ""))

    @property
    def referrer(self) -> str | None:
        """Referer header, or None."""
        value: str | None = self.headers.get("referer")
        return value

    @property
    def origin(self) -> str | None:
        """Origin header, or None."""
        value: str | None = self.headers.get("origin")
        return value

    @property
    def authorization(self) -> Authorization | None:
        """Authorization header, parsed, or None."""
        value = self.headers.get("authorization")
        return Authorization(value) if value else None

    @_Lazy
    def cookies(self) -> MultiDict:
        """Cookies."""
        pairs = []
        for part in str(self.headers.get("cookie", "")).split(";"):
            name, found, value = part.strip().partition("=")
            if found:
                pairs.append((name.strip(), value.strip().strip('"')))
        return MultiDict(pairs)

    # Query and body ----------------------------------------------------------------------------------------
    @_Lazy
    def args(self) -> MultiDict:
        """Query fields."""
        return MultiDict(parse_qsl(self._split[1], keep_blank_values=True, errors="replace"))

    @property
    def is_json(self) -> bool:
        """Whether the media type says JSON."""
        kind = self.mimetype
        return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))

    @property
    def json(self) -> Any:
        """The body as JSON; 415 when the media type says otherwise, 400 when it is none."""
        return self.get_json()

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """Return the body parsed as JSON.

        Args:
            force: Parse whatever the media type says.
            silent: Return None instead of an error.
            cache: Keep the result for the next call.

        Raises:
            HTTPError: 415 for another media type, 400 for a body that is no JSON.
        """
        if cache and "_json" in self.__dict__:
            return self.__dict__["_json"]
        if not (force or self.is_json):
            if silent:
                return None
            raise HTTPError(415, "the request's Content-Type is not application/json")
        try:
            value = json.loads(self._invocation.body)
        except ValueError as exc:
            if silent:
                return None
            raise HTTPError(400, f"the request's body is not JSON: {exc}") from exc
        if cache:
            self.__dict__["_json"] = value
        return value

    @property
    def data(self) -> bytes:
        """The body; b"" for a form, whose content is in `form` and `files`."""
        return b"" if self.mimetype in _FORM_TYPES else self._invocation.body

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """Return the whole body, as text (UTF-8, undecodable bytes replaced) when `as_text`."""
        body = self.data if parse_form_data else self._invocation.body
        return body.decode("utf-8", "replace") if as_text else body

    @_Lazy
    def stream(self) -> io.BytesIO:
        """The body as a readable object."""
        return io.BytesIO(self._invocation.body)

    @_Lazy
    def _forms(self) -> tuple[MultiDict, MultiDict]:
        if self.mimetype == "application/x-www-form-urlencoded":
            text = self._invocation.body.decode("utf-8", "replace")
            return MultiDict(parse_qsl(text, keep_blank_values=True, errors="replace")), MultiDict([])
        if self.mimetype == "multipart/form-data":
            boundary = _parameters(self.content_type or "").get("boundary", "")
            return _multipart(self._invocation.body, boundary.encode("latin-1", "replace"))
        return MultiDict([]), MultiDict([])

    @property
    def form(self) -> MultiDict:
        """Form fields."""
        return self._forms[0]

    @property
    def files(self) -> MultiDict:
        """Uploaded files, name -> FileStorage."""
        return self._forms[1]

    @property
    def values(self) -> MultiDict:
        """Query fields, then form fields (only where a method has a body, as in Flask)."""
        pairs = self.args.items(multi=True)
        if self.method in {"POST", "PUT", "PATCH"}:
            pairs = pairs + self.form.items(multi=True)
        return MultiDict(pairs)

    @property
    def environ(self) -> dict[str, Any]:
        """The WSGI environment."""
        from pelton.sdk import flask_app

        return flask_app.environ(self._invocation)


def _parameters(header: str) -> dict[str, str]:
    """Return the `; name=value` parameters of a header value."""
    found = {}
    for part in header.split(";")[1:]:
        name, equals, value = part.strip().partition("=")
        if equals:
            found[name.strip().lower()] = value.strip().strip('"')
    return found


def _multipart(body: bytes, boundary: bytes) -> tuple[MultiDict, MultiDict]:
    """Split a multipart form into fields and files; what follows no rule is left out."""
    fields: list[tuple[str, Any]] = []
    files: list[tuple[str, Any]] = []
    if not boundary:
        return MultiDict(fields), MultiDict(files)
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary)[1:]:
        if part.startswith(b"--"):
            break
        head, found, content = part.partition(b"\r\n\r\n")
        if not found:
            continue
        headers: dict[str, str] = {}
        for line in head.decode("utf-8", "replace").split("\r\n"):
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        parameters = _parameters(headers.get("content-disposition", ""))
        name = parameters.get("name", "")
        if "filename" in parameters:
            kind = headers.get("content-type", "application/octet-stream")
            files.append((name, FileStorage(name, parameters["filename"], kind, content)))
        else:
            fields.append((name, content.decode("utf-8", "replace")))
    return MultiDict(fields), MultiDict(files)
