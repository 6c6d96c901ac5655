"""A handler in the worker's process sees what Lambda's Python runtime shows, and fails as there."""

import json
import logging
import os
import time
from decimal import Decimal

import pytest

from pelton.compat.aws_lambda.calls import LambdaCall, decode, encode, is_simple
from pelton.errors import FunctionLoadError

INVOKE = b"/2015-03-31/functions/function/invocations"


@pytest.fixture
def invoke(request_of):
    """Call a function by the Invoke API; returns (reply, payload)."""

    def run(function, payload=b"{}", headers=(), **more):
        reply = function.call(request_of(INVOKE, "POST", payload, headers, **more))
        return reply, json.loads(reply.body)

    return run


def test_context_has_every_attribute_of_the_runtime(hello, invoke):
    function = hello(
        "return {n: getattr(context, n) for n in ('aws_request_id', 'log_group_name', 'log_stream_name', "
        "'function_name', 'memory_limit_in_mb', 'function_version', 'invoked_function_arn', 'tenant_id', "
        "'client_context')} | {'left': context.get_remaining_time_in_millis(), 'w3c': context.w3c(), "
        "'identity': context.identity.cognito_identity_id, 'repr': repr(context)}",
        memory_size="256",
    )

    _, found = invoke(function, deadline=time.monotonic() + 2)
    left = found.pop("left")
    text = found.pop("repr")

    assert 1000 < left <= 2000
    assert text.startswith("LambdaContext([aws_request_id=i-1,") and "memory_limit_in_mb=256" in text
    assert found == {
        "aws_request_id": "i-1",
        "log_group_name": "/aws/lambda/f",
        "log_stream_name": "$LATEST",
        "function_name": "f",
        "memory_limit_in_mb": "256",
        "function_version": "$LATEST",
        "invoked_function_arn": "arn:aws:lambda:us-east-1:012345678912:function:f",
        "tenant_id": None,
        "client_context": None,
        "w3c": {},
        "identity": None,
    }
    assert invoke(hello("return context.get_remaining_time_in_millis()"))[1] == 900_000
    assert invoke(function, deadline=time.monotonic() - 1)[1]["left"] == 0


def test_client_context_and_tenant_reach_the_context(hello, invoke):
    import base64

    sent = {"client": {"app_title": "shop"}, "custom": {"a": 1}, "w3c": {"traceparent": "00-1", "other": "x"}}
    encoded = base64.b64encode(json.dumps(sent).encode())
    function = hello(
        "c = context.client_context\n"
        "return [c.client.app_title, c.client.installation_id, c.custom, c.env, context.w3c(), "
        "context.tenant_id]"
    )

    headers = [(b"x-amz-client-context", encoded), (b"x-amz-tenant-id", b"t1")]
    _, found = invoke(function, headers=headers)

    assert found == ["shop", None, {"a": 1}, None, {"traceparent": "00-1"}, "t1"]
    assert invoke(hello("return context.client_context"))[1] is None


def test_environment_is_the_platforms_and_facts_the_users(hello, invoke, monkeypatch):
    os.environ["AWS_REGION"] = "eu-north-1"
    os.environ["TABLE"] = "users-own"
    function = hello(
        "return dict(os.environ)", environment='{"TABLE": "orders", "STAGE": "dev"}', memory_size="512"
    )

    _, found = invoke(function)

    assert (found["TABLE"], found["STAGE"]) == ("users-own", "dev")
    assert found["AWS_REGION"] == found["AWS_DEFAULT_REGION"] == "eu-north-1"
    assert found["AWS_LAMBDA_FUNCTION_NAME"] == "f"
    assert found["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert found["_HANDLER"] == "lambda_function.lambda_handler"
    assert found["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_python3.")
    assert found["LAMBDA_TASK_ROOT"] == os.getcwd()
    assert "_X_AMZN_TRACE_ID" not in found


def test_trace_id_is_that_of_the_invocation_and_gone_with_it(hello, invoke):
    function = hello("return os.environ.get('_X_AMZN_TRACE_ID')")

    assert invoke(function, headers=[(b"x-amzn-trace-id", b"Root=1-2-3")])[1] == "Root=1-2-3"
    assert invoke(function)[1] is None


def test_result_is_encoded_by_the_runtimes_rules(hello, invoke):
    function = hello(
        "from decimal import Decimal\n"
        "return {'d': Decimal('1.10000000000000000000001'), 'nan': float('nan'), "
        "'dnan': Decimal('-NaN'), 't': (1,)}"
    )

    reply, _ = invoke(function)

    assert b'"d": 1.10000000000000000000001,' in reply.body
    assert b'"nan": NaN, "dnan": NaN, "t": [1]' in reply.body


def test_bytes_are_passed_on_as_they_are(hello, request_of):
    reply = hello("return b'\\xff'").call(request_of(INVOKE, "POST"))

    assert (b"content-type", b"application/unknown") in reply.headers
    assert reply.body == b"\xff"


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("raise KeyError('a')", "KeyError", "'a'"),
        (
            "return object()",
            "Runtime.MarshalError",
            "Unable to marshal response: Object of type object is not",
        ),
        ("async def f(): pass\nreturn f()", "Runtime.MarshalError", "Object of type coroutine is not JSON"),
        (
            "sys.exit(3)",
            "Runtime.ExitError",
            "RequestId: i-1 Error: Runtime exited with error: exit status 3",
        ),
        ("sys.exit()", "Runtime.ExitError", "Runtime exited without providing a reason"),
        ("a = []\na.append(a)\nreturn a", "Runtime.MarshalError", "Circular reference"),
    ],
)
def test_failure_is_the_runtimes_error_document(hello, invoke, body, kind, message, capsys):
    function = hello(body)

    reply, found = invoke(function)

    assert reply.status == 200
    assert (b"x-amz-function-error", b"Unhandled") in reply.headers
    assert found["errorType"] == kind
    assert message in found["errorMessage"]
    if kind == "KeyError":
        assert found["requestId"] == "i-1"
        assert len(found["stackTrace"]) == 1 and "in lambda_handler" in found["stackTrace"][0]
        assert capsys.readouterr().err.startswith(
            "[ERROR] KeyError: 'a'\nTraceback (most recent call last):\n"
        )


def test_handler_may_be_any_callable_in_any_module(load, invoke):
    adapter = "class Adapter:\n    def __call__(self, event, context):\n        return 'adapted'\n"
    source = f"{adapter}handler = Adapter()\n"

    assert invoke(load(source, target="src/pkg/app.handler", file="src/pkg/app.py"))[1] == "adapted"


def test_code_uri_is_the_task_root(load, invoke):
    source = "import os\ndef f(event, context):\n    return os.path.basename(os.getcwd())\n"

    assert invoke(load(source, target="app.f", file="code/app.py", code_uri="code/"))[1] == "code"


def test_function_name_alone_is_enough_where_the_file_is_known(load, invoke):
    source = "import os\ndef f(event, context):\n    return os.environ['_HANDLER']\n"

    assert invoke(load(source, target="f", file="app.py"))[1] == "app.f"


@pytest.mark.parametrize(
    ("target", "message", "logged"),
    [
        (
            "lambda_function.nothing",
            "no function 'nothing'",
            "[ERROR] Runtime.HandlerNotFound: Handler 'nothing'",
        ),
        ("absent.f", "module 'absent' is not there", "[ERROR] Runtime.ImportModuleError: Unable to import"),
        (
            "sys.exit",
            "part of Python",
            "[ERROR] Runtime.BuiltInModuleConflict: Cannot use built-in module sys",
        ),
        ("lambda_function.", "does not name a module", "[ERROR] Runtime.MalformedHandlerName: Bad handler"),
        ("lambda_function.NUMBER", "is a int, which cannot be called", ""),
    ],
)
def test_handler_that_names_nothing_is_refused_with_the_names_that_exist(
    load, target, message, logged, capsys
):
    with pytest.raises(FunctionLoadError, match=message) as caught:
        load("NUMBER = 1\ndef f(event, context): ...\n", target=target)

    assert capsys.readouterr().err.startswith(logged)
    if "NUMBER" in target or "nothing" in target:
        assert "Functions in this file: f." in caught.value.hint


@pytest.mark.parametrize(
    ("source", "kind"), [("import nope\n", "ImportModuleError"), ("def\n", "UserCodeSyntaxError")]
)
def test_module_that_cannot_be_imported_is_logged_in_the_runtimes_words(load, source, kind, capsys):
    with pytest.raises((ImportError, SyntaxError)):
        load(source)

    assert capsys.readouterr().err.startswith(f"[ERROR] Runtime.{kind}: ")


@pytest.mark.parametrize("options", [{"environment": "no"}, {"http_event": "x"}, {"event_source": "x"}])
def test_unknown_option_values_are_refused(hello, options):
    with pytest.raises(FunctionLoadError):
        hello("return 1", **options)


def test_root_logger_writes_as_lambdas_does(hello, invoke, capsys):
    function = hello("logging.getLogger('a').warning('got %s', 1)\nlogging.info('hidden')")

    invoke(function)
    line = capsys.readouterr().out

    assert line.startswith("[WARNING]\t2") and line.endswith("Z\ti-1\tgot 1\n")
    assert logging.getLogger().level == logging.WARNING


def test_json_logs_have_the_runtimes_keys(hello, invoke, capsys):
    os.environ.update(AWS_LAMBDA_LOG_FORMAT="JSON", AWS_LAMBDA_LOG_LEVEL="INFO")
    function = hello(
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n"
        "    logging.getLogger('a').exception('bad', extra={'order': 7})\nraise ValueError('x')"
    )

    invoke(function)
    output = capsys.readouterr()
    record, failure = json.loads(output.out), json.loads(output.err)

    assert record.pop("stackTrace")[0].startswith("  File ")
    assert record.pop("timestamp").endswith("Z")
    assert "lambda_handler" in record.pop("location")
    assert record == {
        "level": "ERROR",
        "message": "bad",
        "logger": "a",
        "errorType": "ZeroDivisionError",
        "errorMessage": "division by zero",
        "requestId": "i-1",
        "order": 7,
    }
    assert (failure["level"], failure["errorType"], failure["requestId"]) == ("ERROR", "ValueError", "i-1")


def test_platform_lines_are_written_when_asked_for(hello, request_of, capsys):
    function = hello("print('inside')\nreturn 1", platform_logs="true")

    function.call(request_of())
    function.call(request_of())
    lines = capsys.readouterr().out.splitlines()

    assert lines[:3] == ["START RequestId: i-1 Version: $LATEST", "inside", "END RequestId: i-1"]
    assert lines[3].startswith("REPORT RequestId: i-1\tDuration: ")
    assert "Init Duration" in lines[3] and "Init Duration" not in lines[7]


def test_json_round_trip_of_simple_values_changes_nothing():
    for value in ("a", {}, {"a": 1, "b": None, "c": {"d": "e", "f": True}, "g": ["h"]}):
        assert is_simple(value)
        assert decode(encode(value)) == value
    for other in (
        1.5,
        None,
        {1: 2},
        {"a": {"b": ["c"]}},
        {"a": (1,)},
        {"a": [1]},
        {"a": {1: 2}},
        {"a": Decimal(1)},
    ):
        assert not is_simple(other)


def test_call_encodes_its_event_when_bytes_are_wanted():
    assert LambdaCall(request_id="i", event={"a": "é"}).payload == '{"a": "é"}'.encode()
    assert LambdaCall(request_id="i").payload == b"null"
    assert encode("\ud800") == b'"\\ud800"'
