"""Python handlers in the worker's own process: what Lambda's Python runtime does, without its polling.

`load` imports what the handler string names and returns it behind the doors of `doors.py`; the environment,
`context`, JSON rules, log format and error documents are the runtime's.
Source: `faas-conventions` contract, sections 2.3 and 2.4. Decided where it is silent: a coroutine as a
result is the marshalling error that Lambda makes of it; `sys.exit` fails one invocation and leaves the
process alive.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final

from pelton.compat.aws_lambda import doors, logs
from pelton.compat.aws_lambda.calls import (
    JSON,
    UNSET,
    LambdaCall,
    LambdaResult,
    decode,
    encode,
    error_payload,
    failed,
    is_simple,
)
from pelton.compat.aws_lambda.context import FunctionInfo, LambdaContext, context_class, enter, info_of
from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadedFunction, LoadRequest
from pelton.sdk import tracebacks
from pelton.sdk.source import functions_of, import_source

__all__ = ["InProcess", "load"]

_TRACE: Final = "_X_AMZN_TRACE_ID"
_UNICODE_SINCE: Final = (3, 12)


def load(request: LoadRequest) -> LoadedFunction:
    """Import the handler and put it behind its doors.

    Raises:
        FunctionLoadError: The handler string is malformed or names nothing that can be called.
    """
    began = time.monotonic()
    for name, value in _variables(request).items():
        os.environ.setdefault(name, value)
    info = info_of(request)
    enter(info)
    logger = logs.RootLogger(os.environ)
    logger.install()
    folder = info.task_root
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if os.path.isdir(folder):  # noqa: PTH112 -- pathlib costs a worker 8 ms of imports
        os.chdir(folder)
    function = _find(info, logger)
    runs = InProcess(function, info, logger, init_s=time.monotonic() - began)
    return doors.serve(request, info, runs.invoke, sync=True, direct=None if runs.reports else runs)


def _variables(request: LoadRequest) -> dict[str, str]:
    """Return the environment that the template declares; the user's own wins."""
    text = request.options.get("environment", "")
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise FunctionLoadError(
            "the option environment is no JSON object",
            hint='Write pelton.dev/environment as e.g. {"TABLE": "orders"}.',
        )
    return {str(name): str(value) for name, value in found.items()}


def _find(info: FunctionInfo, logger: logs.RootLogger) -> Callable[[Any, Any], Any]:
    module_name, _, name = info.handler.rpartition(".")
    if not module_name or not name:
        raise _refused(
            "Runtime.MalformedHandlerName",
            f"Bad handler '{info.handler}': not enough values to unpack (expected 2, got 1)",
            logger,
            FunctionLoadError(
                f"the handler {info.handler!r} does not name a module and a function",
                hint="Write it as FILE.FUNCTION, e.g. lambda_function.lambda_handler or src/app.handler.",
            ),
        )
    module = _import(module_name, info.task_root, logger)
    try:
        function = getattr(module, name)
    except AttributeError:
        names = ", ".join(functions_of(module)) or "none"
        raise _refused(
            "Runtime.HandlerNotFound",
            f"Handler '{name}' missing on module '{module_name}'",
            logger,
            FunctionLoadError(
                f"there is no function {name!r} in the module {module_name!r}",
                where=str(getattr(module, "__file__", None) or module_name),
                hint=f"Functions in this file: {names}. Name one as the handler, e.g. with --target "
                f"{module_name}.NAME.",
            ),
        ) from None
    if not callable(function):
        raise FunctionLoadError(
            f"{info.handler!r} is a {type(function).__name__}, which cannot be called",
            where=str(getattr(module, "__file__", None) or module_name),
            hint=f"Functions in this file: {', '.join(functions_of(module)) or 'none'}.",
        )
    checked: Callable[[Any, Any], Any] = function
    return checked


def _import(name: str, folder: str, logger: logs.RootLogger) -> ModuleType:
    dotted = name.replace("/", ".")
    path = f"{folder}/{dotted.replace('.', '/')}"
    if dotted.partition(".")[0] in sys.builtin_module_names:
        raise _refused(
            "Runtime.BuiltInModuleConflict",
            f"Cannot use built-in module {name} as a handler module",
            logger,
            FunctionLoadError(
                f"the handler's module {name!r} has the name of a module that is part of Python",
                hint="Rename the file, and the handler with it.",
            ),
        )
    if not (os.path.isfile(f"{path}.py") or os.path.isdir(path)):  # noqa: PTH112, PTH113 -- as in load
        raise _refused(
            "Runtime.ImportModuleError",
            f"Unable to import module '{name}': No module named '{dotted}'",
            logger,
            FunctionLoadError(
                f"the handler's module {name!r} is not there",
                where=f"{path}.py",
                hint=f"Python files there: {_python_files(folder)}. Name one of them in the handler, e.g. "
                "with --target FILE.FUNCTION.",
            ),
        )
    try:
        # A file of its own may be called like a module of the standard library; a package may not.
        return importlib.import_module(dotted) if "." in dotted else _import_top(dotted, path)
    except ImportError as exc:
        _log(logger, "Runtime.ImportModuleError", f"Unable to import module '{name}': {exc}")
        raise
    except SyntaxError as exc:
        _log(logger, "Runtime.UserCodeSyntaxError", f"Syntax error in module '{name}': {exc}")
        raise


def _import_top(name: str, path: str) -> ModuleType:
    if os.path.isfile(f"{path}.py"):  # noqa: PTH113 -- as in load
        return import_source(f"{path}.py")
    return importlib.import_module(name)


def _python_files(folder: str) -> str:
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))  # noqa: PTH208 -- as in load
    except OSError:
        names = []
    return ", ".join(names[:20]) or "none"


def _refused(
    error_type: str, message: str, logger: logs.RootLogger, error: FunctionLoadError
) -> FunctionLoadError:
    _log(logger, error_type, message)
    return error


def _log(logger: logs.RootLogger, error_type: str, message: str) -> None:
    """Write an error of loading to the log in the runtime's form."""
    document = {"errorMessage": message, "errorType": error_type, "requestId": "", "stackTrace": []}
    sys.stderr.write(logs.error_line(document, as_json=logger.as_json))


class InProcess:
    """Runs a handler in this process, one invocation at a time.

    Args:
        function: The handler.
        info: Who it is.
        logger: The root logger's handler.
        init_s: Seconds that loading took.

    Attributes:
        context: Makes a context, see front_v2.Direct.
        reports: Whether START, END and REPORT are written for each invocation.
    """

    def __init__(
        self,
        function: Callable[[Any, Any], Any],
        info: FunctionInfo,
        logger: logs.RootLogger,
        *,
        init_s: float = 0.0,
    ) -> None:
        self._function = function
        self._info = info
        self._logger = logger
        self._init_s = init_s
        self.context = context_class(info)
        self._traced = bool(os.environ.pop(_TRACE, None))
        self._ascii = sys.version_info < _UNICODE_SINCE
        self.reports = info.options.get("platform-logs", "").lower() == "true"

    def invoke(self, call: LambdaCall) -> LambdaResult:
        """See calls.Invoke."""
        if call.wants_tail or self.reports:
            return self._reported(call)
        return self._run(call)

    def _run(self, call: LambdaCall) -> LambdaResult:
        try:
            context = self.context(call.request_id, call.deadline)
            if call.client_context or call.identity or call.arn or call.tenant:
                self._fill(context, call)
            event = call.event
            if event is UNSET:
                body = call.body or b""
                event = decode(body) if call.content_type == JSON else body
        except _FaultError as exc:
            return self._failed(call.request_id, exc.error_type, str(exc))
        except (ValueError, RecursionError) as exc:
            text = f"Unable to unmarshal input: {exc}"
            return self._failed(call.request_id, "Runtime.UnmarshalError", text)
        value = self.call(call.request_id, event, context, call.trace_id, call.tenant)
        if type(value) is LambdaResult:
            return value
        return self.marshal(call.request_id, value, wants_value=call.wants_value)

    def call(self, request_id: str, event: Any, context: Any, trace_id: str | None, tenant: str = "") -> Any:
        """See front_v2.Direct."""
        logger = self._logger
        logger.request_id = request_id
        logger.tenant = tenant
        if trace_id:
            os.environ[_TRACE] = trace_id
            self._traced = True
        elif self._traced:
            os.environ.pop(_TRACE, None)
            self._traced = False
        try:
            return self._function(event, context)
        except Exception as exc:
            return self._failed(request_id, type(exc).__name__, tracebacks.message(exc), _stack(exc))
        except SystemExit as exc:
            return self._exited(request_id, exc)

    def _fill(self, context: LambdaContext, call: LambdaCall) -> None:
        """Add to a context what few callers send."""
        client_context = _parsed("Client Context", call.client_context)
        if client_context is not None:
            context.take_client_context(client_context)
        context.take_identity(_parsed("Cognito Identity", call.identity))
        if call.arn:
            context.invoked_function_arn = call.arn
        context.tenant_id = call.tenant or None

    def marshal(self, request_id: str, value: Any, *, wants_value: bool = False) -> LambdaResult:
        """See front_v2.Direct."""
        if wants_value and is_simple(value):
            return LambdaResult(value=value)
        if isinstance(value, bytes):
            return LambdaResult(payload=value, content_type="application/unknown")
        try:
            return LambdaResult(payload=encode(value, ascii_only=self._ascii))
        except (TypeError, ValueError, RecursionError) as exc:
            if inspect.iscoroutine(value):
                value.close()  # nobody will await it, and Python would say so at some later time
            text = f"Unable to marshal response: {exc}"
            return self._failed(request_id, "Runtime.MarshalError", text)

    def _failed(
        self, request_id: str, error_type: str, message: str, stack: list[str] | None = None
    ) -> LambdaResult:
        document = {
            "errorMessage": message,
            "errorType": error_type,
            "requestId": request_id,
            "stackTrace": stack or [],
        }
        sys.stderr.write(logs.error_line(document, as_json=self._logger.as_json))
        return failed(request_id, error_type, message, stack)

    def _exited(self, request_id: str, exc: SystemExit) -> LambdaResult:
        code = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
        how = f"with error: exit status {code}" if code else "without providing a reason"
        message = f"RequestId: {request_id} Error: Runtime exited {how}"
        sys.stderr.write(message + "\n")
        return LambdaResult(
            payload=error_payload("Runtime.ExitError", message),
            error=True,
            error_type="Runtime.ExitError",
            error_message=message,
        )

    def _reported(self, call: LambdaCall) -> LambdaResult:
        """Run with START, END and REPORT, and keep the end of the log where that was asked for."""
        info, init_s = self._info, self._init_s
        self._init_s = 0.0
        start, _ = logs.platform_lines(call.request_id, info.version, info.memory_mb, elapsed_s=0)
        tail = logs.Tail()
        if self.reports:
            sys.stdout.write(start)
        tail.add(start)
        began = time.monotonic()
        if call.wants_tail:
            with tail:
                result = self._run(call)
        else:
            result = self._run(call)
        _, end = logs.platform_lines(
            call.request_id,
            info.version,
            info.memory_mb,
            elapsed_s=time.monotonic() - began,
            init_s=init_s,
        )
        if self.reports:
            sys.stdout.write(end)
        if call.wants_tail:
            tail.add(end)
            result.log_tail = tail.bytes()
        return result


class _FaultError(Exception):
    """A fault of the runtime's, not of the function's."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


def _parsed(what: str, text: str) -> dict[str, Any] | None:
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise _FaultError(
            "Runtime.LambdaContextUnmarshalError", f"Unable to parse {what} JSON: {exc}"
        ) from exc
    if not isinstance(found, dict):
        raise _FaultError("Runtime.LambdaContextUnmarshalError", f"Unable to parse {what} JSON: no object")
    return found


def _stack(exc: BaseException) -> list[str]:
    """Return the user's frames of a traceback as the runtime writes them, one item per frame."""
    frames = traceback.extract_tb(exc.__traceback__)
    return traceback.format_list([frame for frame in frames if frame.filename != __file__])
