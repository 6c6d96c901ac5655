"""Azure Functions: apps of decorated functions (v2), of function.json folders (v1), and custom handlers.

`found.py` recognises them. Loading reads the functions (`app.py`), then serves them (`serve.py`; a custom
handler's by `custom.py`), each call by `call.py` with values of `values.py` and `convert.py`. One app is one
Pelton function: all its routes, and its other functions for events.
Source: `faas-conventions` contract, sections 3 and 11 (rows 2 to 4). Not here: the gRPC worker protocol,
Durable Functions, worker extensions.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from pelton.compat.azure import custom, logs
from pelton.compat.azure.app import Function, check, described, read_v1, read_v2
from pelton.compat.azure.convert import Library
from pelton.compat.azure.found import detect
from pelton.compat.azure.serve import PythonApp
from pelton.compat.azure.settings import Host, Keys, host_settings, local_values, parse_keys, read_json
from pelton.errors import FunctionLoadError
from pelton.model.convention import Facts
from pelton.model.invocation import LoadedFunction, LoadRequest, Reply
from pelton.sdk import tracebacks

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "azure"
IMPLIED: Final[dict[str, str]] = {}
"""Empty: `Match.implied` names the library, since functions of the older model may import nothing at all."""

FACTS: Final = Facts(
    title="Azure Functions",
    looks_for="host.json with function_app.py that makes a FunctionApp, host.json with customHandler, or "
    "folders with function.json",
    triggers="one per function: HTTP; timer; queue; blob; Event Hubs; Event Grid; Service Bus; Kafka; "
    "Cosmos DB; SQL; warm-up; Dapr; generic",
    input="typed objects by parameter name (HttpRequest, TimerRequest, QueueMessage, ...), func.Out for "
    "outputs, context where asked for",
    output="return value (HttpResponse or str for HTTP; $return) and func.Out.set, one per output binding",
    address="the platform's host; Python dials it, a custom handler listens on 127.0.0.1",
    protocol="gRPC stream; HTTP for custom handlers",
    port="7071 (func start); FUNCTIONS_CUSTOMHANDLER_PORT",
    code="function_app.py ($PYTHON_SCRIPT_FILE_NAME) with one FunctionApp, or FOLDER/function.json with "
    "main() in FOLDER/__init__.py",
    forms={
        "http": "azure.functions.HttpRequest",
        "cloudevent": "azure.functions.EventGridEvent or CloudEvent; the trigger's own object",
        "timer": "azure.functions.TimerRequest",
        "record": "azure.functions.KafkaEvent, QueueMessage, EventHubEvent or ServiceBusMessage, by trigger",
    },
    failure="500 with an empty body; 404 for no route or method; 401 for a missing or wrong key",
    concurrency="many (PYTHON_THREADPOOL_THREAD_COUNT threads, coroutines on the loop)",
    implied="azure-functions",
)
_PACKAGES: Final = ".python_packages/lib/site-packages"
_KEYS: Final = "PELTON_AZURE_KEYS"


def load(request: LoadRequest) -> LoadedFunction:
    """Import an app and wrap its functions.

    Raises:
        FunctionLoadError: No app or several, a function that does not fit its bindings, no function at all.
    """
    bundle = request.bundle or request.source.rpartition("/")[0]
    document = read_json(f"{bundle}/host.json")
    host = host_settings(document)
    _environment(bundle)
    keys = parse_keys(request.options.get("function-keys") or os.environ.get(_KEYS, ""))
    signature = request.signature or ("v2" if request.source.endswith(".py") else "v1")
    if signature == "custom-handler":
        functions = _narrowed([item for item, _ in described(bundle, os.environ)], request)
        return custom.load(request, bundle, functions, host, keys)
    logs.install(document)
    app: Any = None
    if signature == "v2":
        app, found = read_v2(request.source, os.environ)
    else:
        found = read_v1(bundle, os.environ)
    where = request.source if signature == "v2" else bundle
    functions = _narrowed(found, request)
    for function in functions:
        check(function, where if signature == "v2" else f"{function.directory}/function.json")
        function.retry = function.retry or host.retry
    return _loaded(request, bundle, signature, where, functions, host, keys, app)


def _loaded(
    request: LoadRequest,
    bundle: str,
    signature: str,
    where: str,
    functions: Sequence[Function],
    host: Host,
    keys: Keys,
    app: Any,
) -> LoadedFunction:
    served = PythonApp(
        Library(),
        functions,
        host,
        keys,
        send=request.send,
        send_async=request.send_async,
        where=where,
        bundle=bundle,
        developing=request.revision == "run",
        env=os.environ,
    )
    sync = served.all_sync
    return LoadedFunction(
        call=served.call if sync else served.call_async,
        sync=sync,
        blocking=sync and served.sends,
        on_error=_failed,
        signature=signature,
        target=request.target or ",".join(item.name for item in functions),
        start=_starting(served.start, app),
        stop=_stopping(served.stop, app),
    )


def _failed(exc: BaseException) -> Reply:
    """Answer an exception: nothing but the status, which is all that the host tells a client."""
    return Reply(500, error=tracebacks.reason(exc))


def _narrowed(functions: list[Function], request: LoadRequest) -> list[Function]:
    wanted = request.target or request.options.get("function", "")
    kept = [item for item in functions if not wanted or item.name == wanted]
    if kept:
        return kept
    names = ", ".join(item.name for item in functions) or "none"
    raise FunctionLoadError(
        f"there is no function {wanted!r} in the app" if wanted else "the app has no function",
        where=request.source or request.bundle,
        hint=f"Functions in it: {names}. Disabled ones do not count.",
    )


def _environment(bundle: str) -> None:
    """Give the process what the platform's worker has; what is set already stays."""
    for name, value in local_values(read_json(f"{bundle}/local.settings.json")).items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("FUNCTIONS_WORKER_RUNTIME", "python")
    os.environ.setdefault("AzureWebJobsScriptRoot", bundle)
    packages = f"{bundle}/{_PACKAGES}"
    if os.path.isdir(packages) and packages not in sys.path:  # noqa: PTH112 -- pathlib costs a worker 8 ms
        sys.path.insert(1, packages)  # behind the app's own directory, as the platform's worker has it


def _starting(start: Callable[[], Awaitable[None]], app: Any) -> Callable[[], Awaitable[None]]:
    """Add an AsgiFunctionApp's lifespan, which the library would start in the first request.

    There two first requests at once would start it twice.
    """
    middleware = getattr(app, "middleware", None)
    if middleware is None or not hasattr(middleware, "notify_startup"):
        return start

    async def both() -> None:
        await start()
        app.startup_task_done = await middleware.notify_startup()

    return both


def _stopping(stop: Callable[[], Awaitable[None]], app: Any) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        if getattr(app, "startup_task_done", False):
            app.startup_task_done = False  # else its __del__ would do it again, in a loop of another kind
            await app.middleware.notify_shutdown()
        await stop()

    return both
