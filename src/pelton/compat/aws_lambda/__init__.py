"""AWS Lambda: `handler(event, context)` in this process, or any runtime behind the Runtime API.

`detect.py` finds functions; `handler.py` runs Python handlers here, `runtime_api.py` runs `awslambdaric` and
`bootstrap` programs as processes of their own; both are called through `doors.py`, which puts together HTTP
fronts (`fronts.py`), the Invoke API (`invoke_api.py`) and events (`events.py`). `calls.py` is the interface
between the two halves.
Source: `faas-conventions` contract, sections 2 and 11.
"""

from __future__ import annotations

from typing import Final

from pelton.compat.aws_lambda import handler, runtime_api
from pelton.compat.aws_lambda.detect import detect
from pelton.model.convention import Facts
from pelton.model.invocation import LoadedFunction, LoadRequest

__all__ = ["FACTS", "IMPLIED", "NAME", "detect", "load"]

NAME: Final = "lambda"
IMPLIED: Final[dict[str, str]] = {}
FACTS: Final = Facts(
    title="AWS Lambda",
    looks_for="template.yaml or serverless.yml with Lambda functions, def f(event, context) named "
    "lambda_handler or handler or in lambda_function.py, or an executable bootstrap",
    triggers="Invoke API, now or later; HTTP through function URL, API Gateway v1 and v2, load balancer; "
    "SQS, SNS, S3, EventBridge, Kafka, Kinesis",
    input="one JSON value and a context",
    output="JSON value; statusCode, headers, body for HTTP; batchItemFailures for batches",
    address="the platform, 127.0.0.1; the runtime polls it",
    protocol="HTTP, Runtime API 2018-06-01",
    port="$AWS_LAMBDA_RUNTIME_API",
    code="lambda_function.py, handler string FILE.FUNCTION, (event, context); or bootstrap",
    forms={
        "http": "function URL event (option http-event: apigw-v2, apigw-v1, alb, none)",
        "cloudevent": "EventBridge event",
        "timer": "EventBridge Scheduled Event",
        "record": "Kafka event, SQS event for queues (option event-source: sns, s3, kinesis, ...)",
    },
    failure="200 with X-Amz-Function-Error by the Invoke API; 502 by function URL, API Gateway v1 and load "
    "balancer, 500 by API Gateway v2; 413 over 6 MiB",
    concurrency="1",
)


def load(request: LoadRequest) -> LoadedFunction:
    """Load a handler into this process, or start its runtime.

    The signature `runtime` (a `bootstrap`), a `command`, or the option `lambda-runtime=awslambdaric` means a
    process that asks the Runtime API for its invocations, everything else a Python handler in this one.

    Raises:
        FunctionLoadError: The handler names nothing.
    """
    options = request.options
    if (
        request.signature == "runtime"
        or "command" in options
        or options.get("lambda-runtime") == "awslambdaric"
    ):
        return runtime_api.load(request)
    return handler.load(request)
