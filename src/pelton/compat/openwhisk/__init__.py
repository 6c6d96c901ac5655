"""OpenWhisk: actions, packages, web actions, sequences, and the container protocol of its runtimes.

Found by `builders/detect.py`, loaded by `dataplane/loader.py`. `detection` and `manifest` read the source
tree; `code` and `package` load and run actions; `front` takes invocations, with `container`, `web`, `rest`
and `events` for the ways in; `activation` keeps what became of them, `context` writes `__OW_*`.
Source: `faas-conventions` contract, sections 6 and 11 (row 10). What was decided is said in each file. One
invocation at a time (`model/convention.SERIAL`).
"""

from __future__ import annotations

import os
from typing import Final

from pelton.compat.openwhisk.activation import LIMIT_BYTES, dump
from pelton.compat.openwhisk.context import follow_to_programs
from pelton.compat.openwhisk.detection import detect
from pelton.compat.openwhisk.front import Front
from pelton.compat.openwhisk.package import load_package
from pelton.model.convention import Facts
from pelton.model.invocation import LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "openwhisk"
IMPLIED: Final[dict[str, str]] = {
    "bs4": "beautifulsoup4",
    "dateutil": "python-dateutil",
    "httplib2": "httplib2",
    "lxml": "lxml",
    "requests": "requests",
    "simplejson": "simplejson",
}
FACTS: Final = Facts(
    title="OpenWhisk",
    looks_for="manifest.yml with packages and actions, or __main__.py (also in the only zip) with "
    "def main(params)",
    triggers="action invoke, blocking or not; web action; trigger and rule; feed; sequence; conductor",
    input="one dict or list, merged from package, action and invocation",
    output="dict or list; `error` means application error; web actions: statusCode, headers, body",
    address="the function, 0.0.0.0",
    protocol="HTTP: POST /init, POST /run",
    port="8080",
    code="__main__.py of a zip or inline text, exec.main (main), main(params)",
    forms={
        "http": "params with __ow_method, __ow_headers, __ow_path as for a web action",
        "cloudevent": "members of the data, attributes as ce- names in __ow_headers",
        "timer": "the alarm's trigger_payload, or {}",
        "record": '{"messages": [{topic, partition, offset, key, value}]}',
    },
    failure='an exception is {"error": message}: 502 at the function address and in the API, in the '
    "extension's form for web actions; no dict or list: 502, web 400; time limit: 502, web 400; "
    "over 1 MB: 413; busy: 429",
    concurrency="1",
    implied="beautifulsoup4, httplib2, lxml, python-dateutil, requests, simplejson where imported",
)
_WRAPPING_BYTES: Final = 64 * 1024
"""What /run may add to parameters of the longest kind."""


def load(request: LoadRequest) -> LoadedFunction:
    """Import the actions that a source tree declares.

    Raises:
        FunctionLoadError: An action is missing or cannot be loaded.
    """
    _platform_environment(request)
    package = load_package(request)
    follow_to_programs()
    front = Front(package, request)
    blank = package.blank
    plain = not blank and not package.mixed
    return LoadedFunction(
        call=front.call if plain else front.call_async,
        sync=plain,
        on_error=_failed,
        signature="sequence" if package.only is not None and package.only.spec.sequence else "action",
        target=request.target or (package.only.spec.name if package.only is not None else ""),
        stop=front.stop if blank else None,
        refuse=front.refuse,
        body_limit_bytes=0 if blank else LIMIT_BYTES + _WRAPPING_BYTES,
        aside=front.aside,
    )


def _platform_environment(request: LoadRequest) -> None:
    """Set what is the same for all activations, unless the function's own environment does."""
    host = request.options.get("api-host", "")
    port = os.environ.get("PORT", "")
    os.environ.setdefault("__OW_API_HOST", host or (f"http://localhost:{port}" if port else ""))
    os.environ.setdefault("__OW_NAMESPACE", request.namespace)
    os.environ.setdefault("__OW_ACTION_VERSION", "0.0.1")


def _failed(exc: BaseException) -> Reply:
    """Answer for what is no Exception of the action's (those are results)."""
    text = "The action did not produce a valid response and exited unexpectedly."
    headers = [(b"content-type", b"application/json")]
    return Reply(502, headers, dump({"error": text}), error=tracebacks.reason(exc))
