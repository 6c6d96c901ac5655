"""Who a Lambda function is, what its environment says about that, and the `context` that handlers get.

FunctionInfo is made once per worker and shared by all files of this package.
Source: `faas-conventions` contract, sections 2.3 and 2.4. Decided where it is silent: name, version, memory
and region may be set by the user's environment, and everything else follows from these; without a time limit
900 seconds, Lambda's longest, are said to remain.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from pelton.model.invocation import LoadRequest

__all__ = ["FunctionInfo", "LambdaContext", "context_class", "enter", "environment", "info_of"]

ACCOUNT: Final = "012345678912"
"""Account id that the emulator uses; nothing outside can mean it."""
_LONGEST_MS: Final = 900_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FunctionInfo:
    """Who the function is.

    Attributes:
        name: Its name.
        version: `$LATEST`, unless the environment says otherwise.
        handler: Handler string, e.g. `pkg/mod.func`.
        memory_mb: Memory in MB, as text.
        region, account: Where it seems to run.
        log_group, log_stream: Names that it is told.
        task_root: Directory of the source.
        timeout_s: Seconds per invocation; 0 for no limit.
        options: The function's options.
    """

    name: str
    version: str
    handler: str
    memory_mb: str
    region: str
    account: str
    log_group: str
    log_stream: str
    task_root: str
    timeout_s: float
    options: Mapping[str, str]

    @property
    def arn(self) -> str:
        """ARN of the function, without a qualifier."""
        return f"arn:aws:lambda:{self.region}:{self.account}:function:{self.name}"


def info_of(request: LoadRequest, environ: Mapping[str, str] | None = None) -> FunctionInfo:
    """Return who the function is by what the platform and its environment say."""
    env = os.environ if environ is None else environ
    name = env.get("AWS_LAMBDA_FUNCTION_NAME") or request.name or "function"
    root = _task_root(request)
    return FunctionInfo(
        name=name,
        version=env.get("AWS_LAMBDA_FUNCTION_VERSION") or "$LATEST",
        handler=_handler(request, root),
        memory_mb=env.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE") or request.options.get("memory-size") or "3008",
        region=env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION") or "us-east-1",
        account=ACCOUNT,
        log_group=env.get("AWS_LAMBDA_LOG_GROUP_NAME") or f"/aws/lambda/{name}",
        log_stream=env.get("AWS_LAMBDA_LOG_STREAM_NAME") or "$LATEST",
        task_root=root,
        timeout_s=request.timeout_s,
        options=request.options,
    )


def _task_root(request: LoadRequest) -> str:
    """Return the directory that handlers are named from: the bundle, or its part that a template names."""
    bundle = request.bundle or os.path.dirname(request.source)  # noqa: PTH120 -- pathlib is not loaded
    folder = f"{bundle}/{request.options.get('code-uri', '').strip('/')}".rstrip("/")
    return folder if os.path.isdir(folder) else bundle  # noqa: PTH112 -- as above


def _handler(request: LoadRequest, root: str) -> str:
    """Return the whole handler string: a function's name alone is enough where its file is known."""
    handler = request.options.get("handler") or request.target
    if "." in handler or not request.source.endswith(".py"):
        return handler
    return f"{request.source.removeprefix(f'{root}/').removesuffix('.py')}.{handler}"


def environment(info: FunctionInfo, *, runtime: str = "") -> dict[str, str]:
    """Return the variables that the platform sets for every runtime; they win over the user's.

    Args:
        info: Who the function is.
        runtime: Value of AWS_EXECUTION_ENV without `AWS_Lambda_`, e.g. `python3.12`; "" leaves it out, as for
            custom runtimes.
    """
    found = {
        "AWS_LAMBDA_FUNCTION_NAME": info.name,
        "AWS_LAMBDA_FUNCTION_VERSION": info.version,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": info.memory_mb,
        "AWS_LAMBDA_LOG_GROUP_NAME": info.log_group,
        "AWS_LAMBDA_LOG_STREAM_NAME": info.log_stream,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_REGION": info.region,
        "AWS_DEFAULT_REGION": info.region,
        "LAMBDA_TASK_ROOT": info.task_root,
        "_HANDLER": info.handler,
    }
    if runtime:
        found["AWS_EXECUTION_ENV"] = f"AWS_Lambda_{runtime}"
    return found


def enter(info: FunctionInfo, environ: MutableMapping[str, str] | None = None) -> None:
    """Set the environment of a function that runs in this process."""
    env = os.environ if environ is None else environ
    env.update(environment(info, runtime=f"python{sys.version_info[0]}.{sys.version_info[1]}"))


class _Fields:
    """An object with fixed attributes, filled from a mapping; what the mapping lacks is None."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, values: Mapping[str, Any]) -> None:
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}([{','.join(f'{name}={getattr(self, name)}' for name in self.__slots__)}])"
        )


class Client(_Fields):
    """The `client` of a client context."""

    __slots__ = ("app_package_name", "app_title", "app_version_code", "app_version_name", "installation_id")


class ClientContext(_Fields):
    """What a mobile client says about itself."""

    __slots__ = ("client", "custom", "env")


class CognitoIdentity(_Fields):
    """Who called, by Cognito."""

    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


_W3C: Final = ("traceparent", "tracestate", "baggage")
_ATTRIBUTES: Final = (
    "aws_request_id",
    "log_group_name",
    "log_stream_name",
    "function_name",
    "memory_limit_in_mb",
    "function_version",
    "invoked_function_arn",
    "client_context",
    "identity",
    "tenant_id",
)


class LambdaContext:
    """What a handler gets as its second argument.

    Args:
        request_id: Id of the invocation.
        deadline: CLOCK_MONOTONIC seconds; inf for none.

    Attributes:
        aws_request_id, log_group_name, log_stream_name, function_name, function_version: As in Lambda.
        memory_limit_in_mb: Text.
        invoked_function_arn: What the caller named.
        client_context: None without one.
        identity: Always there; its fields are None without one.
        tenant_id: None without one.
    """

    log_group_name = log_stream_name = function_name = function_version = ""
    memory_limit_in_mb = invoked_function_arn = ""
    tenant_id: str | None = None
    client_context: ClientContext | None = None
    _identity: Mapping[str, Any] | None = None
    _w3c: Mapping[str, str] = {}

    def __init__(self, request_id: str, deadline: float = float("inf")) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def take_identity(self, values: Mapping[str, Any] | None) -> None:
        """Set who called, by Cognito: a mapping of cognitoIdentityId and cognitoIdentityPoolId."""
        self._identity = values

    def take_client_context(self, values: dict[str, Any]) -> None:
        """Set what the client said about itself: a mapping of client, custom, env and w3c."""
        traces = values.pop("w3c", None)
        if isinstance(traces, dict):
            self._w3c = {name: traces[name] for name in _W3C if isinstance(traces.get(name), str)}
        self.client_context = ClientContext(values)
        client = values.get("client")
        if client is not None:
            self.client_context.client = Client(client)  # type: ignore[attr-defined]  # one of the slots

    def __getattr__(self, name: str) -> Any:
        if name == "identity":  # made when asked for: hardly anybody does
            values = self._identity or {}
            self.identity = CognitoIdentity(
                {
                    "cognito_identity_id": values.get("cognitoIdentityId"),
                    "cognito_identity_pool_id": values.get("cognitoIdentityPoolId"),
                }
            )
            return self.identity
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the time limit, 0 when it has passed."""
        left_s = self._deadline - time.monotonic()
        return _LONGEST_MS if left_s == float("inf") else max(0, int(left_s * 1000))

    def log(self, msg: object) -> None:
        """Write a message to the function's log as it is, without a line end."""
        sys.stdout.write(str(msg))

    def w3c(self) -> dict[str, str]:
        """Return traceparent, tracestate and baggage as far as the client context brought them."""
        return dict(self._w3c)

    def __repr__(self) -> str:
        return f"LambdaContext([{','.join(f'{name}={getattr(self, name)}' for name in _ATTRIBUTES)}])"


def context_class(info: FunctionInfo) -> type[LambdaContext]:
    """Return LambdaContext with what is the same for all invocations as class attributes: each costs less."""
    made = type(
        "LambdaContext",
        (LambdaContext,),
        {
            "log_group_name": info.log_group,
            "log_stream_name": info.log_stream,
            "function_name": info.name,
            "function_version": info.version,
            "memory_limit_in_mb": info.memory_mb,
            "invoked_function_arn": info.arn,
        },
    )
    return made
