"""Lambda functions under `pelton run`, called by boto3 and read by mangum and the Powertools models."""

import base64
import json
import subprocess

import pytest

from pelton.compat.aws_lambda.context import info_of
from pelton.compat.aws_lambda.events import event_of
from pelton.compat.aws_lambda.fronts import FRONTS, front_of
from pelton.model.invocation import Invocation, LoadRequest
from pelton.sdk.trigger import Trigger

CLIENT = """
import base64, io, json, sys
import boto3
from botocore.config import Config
client = boto3.client("lambda", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="a",
                      aws_secret_access_key="b", config=Config(retries={"max_attempts": 0}, read_timeout=20))

def invoke(payload, name="function", **more):
    answer = client.invoke(FunctionName=name, Payload=payload, **more)
    body = answer["Payload"].read()
    return answer, json.loads(body) if body else None

def refused(call, **more):
    try:
        call(**more)
    except client.exceptions.ClientError as exc:
        return exc.response["Error"]["Code"], exc.response["ResponseMetadata"]["HTTPStatusCode"]
"""
FUNCTION = """
    import json, sys, time

    def lambda_handler(event, context):
        if "rawPath" in event:
            return {"statusCode": 200, "body": event["rawPath"]}
        print("said", event)
        what = event.get("do")
        if what == "fail":
            raise ValueError("no such order")
        if what == "exit":
            sys.exit(7)
        if what == "sleep":
            time.sleep(event["seconds"])
        if what == "long":
            return "x" * 7_000_000
        if what == "stream":
            return "y" * 600_000
        context_sent = context.client_context and context.client_context.custom
        return {"event": event, "id": context.aws_request_id, "custom": context_sent}
"""


@pytest.fixture
def python(clients_python):
    """Run a script with the real clients; its words are arguments."""

    def run(script, *words, stdin=None):
        done = subprocess.run(
            [clients_python, "-c", script, *words], input=stdin, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


# --- boto3 ---


def test_boto3_invokes_a_function(serve, python):
    served = serve({"lambda_function.py": FUNCTION})
    script = (
        CLIENT
        + """
sent = base64.b64encode(json.dumps({"custom": {"a": 1}}).encode()).decode()
answer, value = invoke(b'{"n": 1}', LogType="Tail", ClientContext=sent)
assert (answer["StatusCode"], answer["ExecutedVersion"]) == (200, "$LATEST"), answer
assert "FunctionError" not in answer
assert value["event"] == {"n": 1} and value["custom"] == {"a": 1}, value
assert value["id"] == answer["ResponseMetadata"]["RequestId"], answer
log = base64.b64decode(answer["LogResult"]).decode()
assert log.startswith("START RequestId: ") and "said {'n': 1}" in log and "\\nREPORT RequestId" in log, log

answer, value = invoke(b'{"do": "fail"}')
assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", answer
assert (value["errorType"], value["errorMessage"]) == ("ValueError", "no such order"), value
assert value["requestId"] and "lambda_handler" in value["stackTrace"][0], value

answer, value = invoke(b'{"do": "exit"}')
assert value["errorType"] == "Runtime.ExitError", value
answer, value = invoke(b'{"do": "long"}')
assert value["errorType"] == "Function.ResponseSizeTooLarge", value

arn = "arn:aws:lambda:us-east-1:012345678912:function:function"
assert invoke(b"", arn)[1]["event"] == {}
assert invoke(b"{}", Qualifier="$LATEST")[0]["StatusCode"] == 200
answer, value = invoke(b"{}", InvocationType="DryRun")
assert answer["StatusCode"] == 204 and value is None, answer
answer, value = invoke(b'{"kept": 1}', InvocationType="Event")
assert answer["StatusCode"] == 202 and value is None, answer

assert refused(invoke, payload=b"{", name="function") == ("InvalidRequestContentException", 400)
assert refused(invoke, payload=b"{}", name="other") == ("ResourceNotFoundException", 404)
assert refused(invoke, payload=b"{}", Qualifier="7") == ("ResourceNotFoundException", 404)
big = json.dumps("x" * 7_000_000).encode()
assert refused(invoke, payload=big) == ("RequestTooLargeException", 413)
big = json.dumps("x" * 300_000).encode()
assert refused(invoke, payload=big, InvocationType="Event") == ("RequestTooLargeException", 413)

events = list(client.invoke_with_response_stream(FunctionName="function", Payload=b'{"do": "stream"}',
                                                 LogType="Tail")["EventStream"])
assert b"".join(e["PayloadChunk"]["Payload"] for e in events[:-1]) == json.dumps("y" * 600_000).encode()
assert "said" in base64.b64decode(events[-1]["InvokeComplete"]["LogResult"]).decode()
failing = client.invoke_with_response_stream(FunctionName="function", Payload=b'{"do": "fail"}')
(event,) = failing["EventStream"]
assert event["InvokeComplete"]["ErrorCode"] == "Unhandled", event
assert "no such order" in event["InvokeComplete"]["ErrorDetails"], event
print("all")
"""
    )

    assert python(script, served.url) == "all\n", served.output
    served.wait_for(r"said \{'kept': 1\}")
    assert served.get("/still/here").text == "/still/here"


def test_timeout_is_a_function_error_and_the_next_invocation_is_served(serve, python):
    served = serve({"lambda_function.py": FUNCTION}, "--annotation", "request-timeout=1s")
    script = (
        CLIENT
        + """
answer, value = invoke(b'{"do": "sleep", "seconds": 1.5}')
assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", answer
assert value["errorType"] == "Sandbox.Timedout", value
assert value["errorMessage"].endswith(" Error: Task timed out after 1.00 seconds"), value
for attempt in range(20):
    answer, value = invoke(b'{"n": 2}')
    if "FunctionError" not in answer:
        break
assert value["event"] == {"n": 2}, value
print("all")
"""
    )

    assert python(script, served.url) == "all\n", served.output


# --- the HTTP fronts, read by mangum ---

APP = """
    from fastapi import FastAPI, Request, Response
    from mangum import Mangum

    app = FastAPI()

    @app.api_route("/echo/{rest:path}", methods=["GET", "POST"])
    async def echo(rest: str, request: Request, response: Response):
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        body = await request.body()
        return {
            "kind": sorted(request.scope["aws.event"]),
            "rest": rest,
            "query": request.query_params.multi_items(),
            "body": body.hex(),
            "cookies": request.cookies,
            "client": request.client.host,
            "type": request.headers.get("content-type"),
            "agent": request.headers["user-agent"],
        }

    @app.get("/image")
    async def image():
        return Response(bytes(range(256)), media_type="image/png", headers={"x-a": "1"})

    @app.get("/broken")
    async def broken():
        raise ValueError("secret")

    @app.get("/gone")
    async def gone():
        return Response(status_code=410)

    handler = Mangum(app, lifespan="off")
"""
MULTI = "alb with several values"


@pytest.mark.parametrize("front", [*(name for name in FRONTS if name != "none"), MULTI])
def test_mangum_reads_every_front(serve, front):
    flags = ["--convention", "lambda", "--target", "main.handler"]
    flags += ["--annotation", f"http-event={'alb' if front == MULTI else front}"]
    if front == MULTI:
        flags += ["--annotation", "http-event-multi-value=true"]
    served = serve(
        {"main.py": APP}, "--convention", "lambda", "--target", "main.handler", *flags, clients=True
    )

    sent = bytes((0, 255, 10))
    answer = served.post(
        "/echo/a%20b/c?x=1&y=%C3%A9+&x=2",
        content=sent,
        headers={"cookie": "k=v; l=w", "content-type": "application/octet-stream", "user-agent": "t/1"},
    )
    found = answer.json()
    assert ("rawPath" in found["kind"]) == (front in {"function-url", "apigw-v2"})
    assert found["rest"] == "a b/c"
    assert (["y", "é "] in found["query"] and ["x", "2"] in found["query"]) or ["x", "1,2"] in found["query"]
    assert found["body"] == sent.hex()
    assert found["cookies"] == {"k": "v", "l": "w"}
    assert (found["client"], found["agent"]) == ("127.0.0.1", "t/1")
    assert sorted(answer.cookies.items()) == [("a", "1"), ("b", "2")]

    assert served.post("/echo/", content='{"é": 1}').json()["body"] == '{"é": 1}'.encode().hex()
    image = served.get("/image")
    assert (image.content, image.headers["content-type"], image.headers["x-a"]) == (
        bytes(range(256)),
        "image/png",
        "1",
    )
    assert served.get("/gone").status_code == 410
    broken = served.get("/broken")
    assert broken.status_code == 500 and "secret" not in broken.text
    assert served.request("HEAD", "/echo/").status_code == 405


# --- every event, read by Powertools ---

MODELS = """
import json, sys
from aws_lambda_powertools.utilities.parser import models
for line in sys.stdin:
    name, event = json.loads(line)
    found = getattr(models, name).model_validate(event)
    print(name, type(found).__name__)
"""
RECORDS = {
    "sqs": "SqsModel",
    "sqs-fifo": "SqsModel",
    "sns": "SnsModel",
    "s3": "S3Model",
    "eventbridge": "EventBridgeModel",
    "kafka": "KafkaMskEventModel",
    "self-managed-kafka": "KafkaSelfManagedEventModel",
    "kinesis": "KinesisDataStreamModel",
}
HTTP = {
    "function-url": "LambdaFunctionUrlModel",
    "apigw-v2": "APIGatewayProxyEventV2Model",
    "apigw-v1": "APIGatewayProxyEventModel",
    "alb": "AlbModel",
}


def test_powertools_models_accept_every_event(python):
    def never(_output):
        raise AssertionError

    info = info_of(
        LoadRequest(source="/x.py", target="x.f", signature="", context={}, send=never, send_async=never), {}
    )
    timer = Trigger(kind="timer", id="5a1e8d0c-0000-4000-8000-000000000000", time="2026-04-09T12:34:56.7Z")
    triggers = [
        timer,
        Trigger(
            kind="record",
            id="m-1",
            time="2026-04-09T12:34:56Z",
            source="bus",
            topic="orders",
            partition=2,
            offset=9,
            timestamp_ms=1775738096700,
            key=b"k",
            headers={"X-Amzn-Trace-Id": "Root=1", "h": "é"},
            data='{"a": "é"}'.encode(),
            attributes={"type": "t", "source": "/s", "subject": "sub"},
        ),
        Trigger(kind="binding", id="m-2", time="2026-04-09T12:34:56Z", source="b", data=b"plain text"),
    ]
    requests = [
        Invocation("i-1", "GET", b"/", [(b"host", b"localhost")], client="127.0.0.1"),
        Invocation(
            "i-2",
            "POST",
            b"/a/b?x=1&x=2&y",
            [
                (b"host", b"f.test:1"),
                (b"cookie", b"a=1"),
                (b"content-type", b"image/png"),
                (b"user-agent", b"t"),
            ],
            body=b"\0",
            client="::1",
        ),
    ]
    events = [
        [model, event_of(trigger, source, info)] for trigger in triggers for source, model in RECORDS.items()
    ]
    events.append(["EventBridgeModel", event_of(timer, "eventbridge", info)])
    for name, model in HTTP.items():
        front = front_of(name, info)
        assert front is not None
        events += [[model, front.event(request)] for request in requests]

    shown = python(MODELS, stdin="\n".join(json.dumps(item) for item in events))

    assert shown.split("\n")[:-1] == [f"{name} {name}" for name, _ in events]


POWERTOOLS = """
    from aws_lambda_powertools import Logger
    from aws_lambda_powertools.event_handler import LambdaFunctionUrlResolver
    from aws_lambda_powertools.utilities.batch import (
        BatchProcessor, EventType, process_partial_response)

    logger = Logger(service="shop")
    app = LambdaFunctionUrlResolver()
    processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)

    @app.get("/orders/<number>")
    def order(number: str):
        logger.info("asked")
        return {"number": number, "q": app.current_event.get_query_string_value("q")}

    def work(record):
        print("record", record.body)
        if "bad" in record.body:
            raise ValueError("a bad one")

    @logger.inject_lambda_context
    def lambda_handler(event, context):
        if "Records" in event:
            return process_partial_response(event, work, processor, context)
        return app.resolve(event, context)
"""


def test_powertools_routes_requests_and_reports_bad_records(serve):
    served = serve({"lambda_function.py": POWERTOOLS}, "--annotation", "event-source=sqs", clients=True)
    headers = {"ce-specversion": "1.0", "ce-id": "e", "ce-type": "t", "ce-source": "/s"}

    assert served.get("/orders/7?q=a%20b").json() == {"number": "7", "q": "a b"}
    assert json.loads(served.wait_for(r'^\{.*"asked".*\}$')[0])["function_name"]
    assert served.get("/other").status_code == 404
    assert served.post(content=b'"good"', headers=headers).status_code == 200
    assert served.post(content=b'"bad"', headers=headers).status_code == 500
    served.wait_for('record "bad"')


# --- bad input ---


def test_handler_that_names_nothing_ends_the_command_with_the_names(serve):
    served = serve(
        {"app.py": "def handler(event, context): ...\n"}, "--target", "app.nothing", "--convention", "aws"
    )

    served.wait_for(r"the handler 'app.nothing' names nothing")
    served.wait_for("Names there: handler")
    assert served.process.wait(20) != 0


def test_bad_bodies_do_not_take_the_worker_down(serve):
    served = serve({"lambda_function.py": FUNCTION})
    path = "/2015-03-31/functions/function/invocations"

    assert served.post(content=b"x" * 7_000_000).status_code == 413
    assert (
        served.post(path, content=b"x" * 7_000_000).headers["x-amzn-errortype"] == "RequestTooLargeException"
    )
    for body in (b"\xff", b"{", b"[" * 50_000):
        assert served.post(path, content=body).status_code == 400
    bad = {"x-amz-client-context": base64.b64encode(b"no json").decode()}
    assert served.post(path, headers=bad).status_code == 400
    assert served.post("/", content=b"\x1f\x8b\x08", headers={"content-encoding": "gzip"}).status_code == 200
    assert served.get("/%ff%zz?%ff=%zz&&=").status_code == 200
    assert served.get("/alive").text == "/alive"
