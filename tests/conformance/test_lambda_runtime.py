"""The Runtime API with the clients that people have: awslambdaric, and bootstraps in bash and Python."""

import base64
import json
import os
import re
import shutil

import httpx
import pytest

INVOKE = "/2015-03-31/functions/function/invocations"
RIC = ("--annotation", "lambda-runtime=awslambdaric")
HANDLER = """
    import decimal, os, sys, time

    def _fail(event):
        raise ValueError("no such thing")

    def _exit(event):
        sys.exit(7)

    def _kill(event):
        os._exit(9)

    def _hang(event):
        time.sleep(60)

    def _long(event):
        return "x" * event["size"]

    def _numbers(event):
        return {"decimal": decimal.Decimal("0.10"), "nan": float("nan")}

    def _bytes(event):
        return bytes([0, 255])

    def _unwritable(event):
        return object()

    def _print(event):
        print("said on stdout")
        print("said on stderr", file=sys.stderr)

    def lambda_handler(event, context):
        if "do" in event:
            return globals()["_" + event["do"]](event)
        return {
            "event": event,
            "pid": os.getpid(),
            "context": {name: getattr(context, name) for name in (
                "aws_request_id", "function_name", "function_version", "memory_limit_in_mb",
                "invoked_function_arn", "log_group_name", "log_stream_name", "tenant_id")},
            "remaining": context.get_remaining_time_in_millis(),
            "client": context.client_context and context.client_context.custom,
            "trace": os.environ.get("_X_AMZN_TRACE_ID"),
            "environment": {name: os.environ.get(name) for name in (
                "_HANDLER", "LAMBDA_TASK_ROOT", "AWS_LAMBDA_FUNCTION_NAME", "AWS_EXECUTION_ENV",
                "AWS_LAMBDA_INITIALIZATION_TYPE", "LAMBDA_RUNTIME_DIR")},
        }
"""


def _invoke(served, event, **headers):
    """Return the answer, its JSON or None, and whether the function failed."""
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = served.post(INVOKE, content=body, headers=headers)
    try:
        document = answer.json()
    except ValueError:
        document = None
    return answer, document, "x-amz-function-error" in answer.headers


def test_unmodified_client_has_its_whole_world(serve):
    served = serve({"lambda_function.py": HANDLER}, *RIC, clients=True)

    answer, document, failed = _invoke(
        served,
        {"a": "ü"},
        X_Amz_Client_Context="eyJjdXN0b20iOiB7ImsiOiAidiJ9fQ==",
        X_Amzn_Trace_Id="Root=1-5759e988-bd862e3fe1be46a994272793",
        X_Amz_Log_Type="Tail",
    )
    assert (answer.status_code, failed, document["event"]) == (200, False, {"a": "ü"})
    context, environment = document["context"], document["environment"]
    assert context["aws_request_id"] == answer.headers["x-amzn-requestid"]
    assert context["function_version"] == "$LATEST"
    assert context["function_name"] == environment["AWS_LAMBDA_FUNCTION_NAME"]
    assert context["invoked_function_arn"].startswith("arn:aws:lambda:")
    assert 0 < document["remaining"] <= 300_000
    assert document["client"] == {"k": "v"}
    assert document["trace"] == "Root=1-5759e988-bd862e3fe1be46a994272793"
    assert environment["_HANDLER"] == "lambda_function.lambda_handler"
    assert environment["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert re.fullmatch(r"AWS_Lambda_python3\.\d+", environment["AWS_EXECUTION_ENV"])
    pid = document["pid"]

    front = served.get("/path?q=1").json()  # the front answers with what is no HTTP answer
    assert (front["event"]["rawPath"], front["pid"]) == ("/path", pid)

    _, document, failed = _invoke(served, {"do": "fail"})
    assert failed
    assert (document["errorType"], document["errorMessage"]) == ("ValueError", "no such thing")
    assert any("_fail" in line for line in document["stackTrace"])

    answer, _, failed = _invoke(served, {"do": "numbers"})
    assert (failed, answer.text) == (False, '{"decimal": 0.10, "nan": NaN}')
    answer, _, failed = _invoke(served, {"do": "bytes"})
    assert (failed, answer.content) == (False, b"\x00\xff")
    assert _invoke(served, {"do": "unwritable"})[1]["errorType"] == "Runtime.MarshalError"
    assert _invoke(served, {})[1]["pid"] == pid  # nothing so far has ended the runtime

    answer, _, _ = _invoke(served, {"do": "print"}, X_Amz_Log_Type="Tail")
    tail = base64.b64decode(answer.headers["x-amz-log-result"]).decode()
    assert "said on stdout\n" in tail
    assert "said on stderr\n" in tail
    assert re.search(r"^START RequestId: \S+ Version: \$LATEST$", tail, re.MULTILINE)
    assert re.search(r"^REPORT RequestId: \S+\tDuration: [\d.]+ ms", tail, re.MULTILINE)


def test_client_that_dies_or_hangs_is_replaced(serve):
    served = serve(
        {"lambda_function.py": HANDLER}, *RIC, clients=True, env={"AWS_LAMBDA_FUNCTION_TIMEOUT": "1"}
    )
    pids = [_invoke(served, {})[1]["pid"]]

    for what, kind, text in (
        ("exit", "Runtime.ExitError", "Runtime exited with error: exit status 7"),
        ("kill", "Runtime.ExitError", "Runtime exited with error: exit status 9"),
        ("hang", "Sandbox.Timedout", "Task timed out after 1.00 seconds"),
    ):
        answer, document, failed = _invoke(served, {"do": what})
        assert (answer.status_code, failed, document["errorType"]) == (200, True, kind)
        assert document["errorMessage"] == f"RequestId: {answer.headers['x-amzn-requestid']} Error: {text}"
        pids.append(_invoke(served, {})[1]["pid"])

    assert len(set(pids)) == len(pids)
    assert not os.path.exists(f"/proc/{pids[2]}")
    _, document, failed = _invoke(served, {"do": "long", "size": 7_000_000})
    assert (failed, document["errorType"]) == (True, "Function.ResponseSizeTooLarge")
    answer, _, failed = _invoke(served, {"do": "long", "size": 6 * 1024 * 1024})
    assert (failed, len(answer.content)) == (False, 6 * 1024 * 1024 + 2)
    assert served.stop() == 0
    assert not os.path.exists(f"/proc/{pids[-1]}")


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (
            "import nothing_of_this_name\ndef lambda_handler(event, context): pass\n",
            "Runtime.ImportModuleError",
        ),
        ("def lambda_handler(event, context):\n    pass\nraise KeyError('at import')\n", "KeyError"),
        ("import sys\ndef lambda_handler(event, context): pass\nsys.exit(3)\n", "Runtime.ExitError"),
    ],
)
def test_client_whose_init_fails_answers_each_invocation_with_the_reason(serve, source, kind):
    served = serve({"lambda_function.py": source}, *RIC, clients=True)

    for _ in range(2):
        answer, document, failed = _invoke(served, {})
        assert (answer.status_code, failed, document["errorType"]) == (200, True, kind)
    assert served.get("/").status_code == 502
    served.wait_for("the runtime's init failed")


def _bootstrap(tmp_path, text, name="bootstrap"):
    folder = tmp_path / "bundle"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return folder


BASH = """#!/bin/bash
set -u
base="http://$AWS_LAMBDA_RUNTIME_API/2018-06-01/runtime"
head=$(mktemp)
trap 'rm -f "$head"' EXIT
while true; do
    event=$(curl -sS -D "$head" "$base/invocation/next") || exit 1
    id=$(sed -n 's/^Lambda-Runtime-Aws-Request-Id: *//Ip' "$head" | tr -d '\\r')
    case "$event" in
        *'"exit"'*) exit 3 ;;
        *'"error"'*)
            curl -sS -o /dev/null -X POST "$base/invocation/$id/error" \\
                -H 'Lambda-Runtime-Function-Error-Type: Function.Wrong' \\
                -d '{"errorMessage": "as asked", "errorType": "Wrong"}' ;;
        *'"large"'*)
            head -c 3000000 /dev/zero | tr '\\0' x |
                curl -sS -o /dev/null --expect100-timeout 300 -X POST "$base/invocation/$id/response" \\
                    --data-binary @- ;;
        *)
            form='{"event": %s, "root": "%s", "handler": "%s"}'
            said=$(printf "$form" "$event" "$LAMBDA_TASK_ROOT" "$_HANDLER")
            curl -sS -o /dev/null -X POST "$base/invocation/$id/response" -d "$said" ;;
    esac
done
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_bootstrap_in_bash_is_a_runtime(serve, tmp_path):
    folder = _bootstrap(tmp_path, BASH)
    served = serve(folder, "--target", "some.handler")

    assert "signature=runtime" in served.wait_for("ready .*")[0]
    assert _invoke(served, {"a": [1]})[1] == {
        "event": {"a": [1]},
        "root": str(folder),
        "handler": "some.handler",
    }
    _, document, failed = _invoke(served, "error")
    assert (failed, document) == (True, {"errorMessage": "as asked", "errorType": "Wrong"})
    answer, _, _ = _invoke(served, "large")  # curl waits for the answer to its Expect
    assert len(answer.content) == 3_000_000
    assert _invoke(served, "exit")[1]["errorType"] == "Runtime.ExitError"
    assert _invoke(served, 1)[1]["event"] == 1


PYTHON = """#!/usr/bin/env python3
import http.client, json, os, time
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def ask(method, path, body=None, headers={}):
    api.request(method, "/2018-06-01/runtime/" + path, body, headers)
    answer = api.getresponse()
    return answer.status, answer.headers, json.loads(answer.read())
def pieces():
    yield json.dumps({"statusCode": 201, "headers": {"x-a": "b"}}).encode() + bytes(8)
    for number in range(3):
        yield b"piece %d\\n" % number
while True:
    _, headers, event = ask("GET", "invocation/next")
    me = "invocation/" + headers["Lambda-Runtime-Aws-Request-Id"]
    if isinstance(event, dict) and event.get("rawPath") == "/stream":
        ask("POST", me + "/response", pieces(), {
            "Lambda-Runtime-Function-Response-Mode": "streaming",
            "Content-Type": "application/vnd.awslambda.http-integration-response"})
        continue
    said = {
        "again": ask("GET", "invocation/next")[1]["Lambda-Runtime-Aws-Request-Id"] == me.split("/")[1],
        "unknown": ask("POST", "invocation/other/response", "1")[::2],
        "init": ask("POST", "init/error", "{}")[::2],
        "mode": None,
    }
    if event == "mode":
        wrong = {"Lambda-Runtime-Function-Response-Mode": "buffered"}
        said["mode"] = ask("POST", me + "/response", "1", wrong)[::2]
        print("MODE", json.dumps(said["mode"]), flush=True)
        continue
    ask("POST", me + "/response", json.dumps(said))
"""


def test_bootstrap_in_python_streams_and_meets_every_refusal(serve, tmp_path):
    served = serve(_bootstrap(tmp_path, PYTHON))

    _, said, failed = _invoke(served, {})
    assert not failed
    assert said["again"] is True
    assert (said["unknown"][0], said["unknown"][1]["errorType"]) == (400, "InvalidRequestID")
    assert (said["init"][0], said["init"][1]["errorType"]) == (403, "InvalidStateTransition")

    _, document, failed = _invoke(served, "mode")
    assert (failed, document["errorType"]) == (True, "Runtime.InvalidResponseModeHeader")
    assert "InvalidFunctionResponseMode" in served.wait_for("^MODE .*")[0]

    with httpx.stream("GET", served.url + "/stream", timeout=20) as answer:
        assert (answer.status_code, answer.headers["x-a"]) == (201, "b")
        assert answer.headers["transfer-encoding"] == "chunked"
        assert b"".join(answer.iter_bytes()) == b"piece 0\npiece 1\npiece 2\n"


EXTENSION = """#!/usr/bin/env python3
import http.client, json, os, sys
name = os.path.basename(sys.argv[0])
api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
def ask(method, path, body=None, headers={}):
    api.request(method, "/2020-01-01/extension/" + path, body, headers)
    answer = api.getresponse()
    return answer.headers, json.loads(answer.read())
events = json.dumps({"events": ["INVOKE", "SHUTDOWN"]})
headers, said = ask("POST", "register", events, {"Lambda-Extension-Name": name})
print("REGISTERED", json.dumps(said), flush=True)
me = {"Lambda-Extension-Identifier": headers["Lambda-Extension-Identifier"]}
while True:
    _, event = ask("GET", "event/next", None, me)
    print("EVENT", event["eventType"], event.get("requestId") or event["shutdownReason"], flush=True)
    if event["eventType"] == "SHUTDOWN":
        break
"""


def test_extension_runs_beside_the_real_client(serve, tmp_path):
    folder = _bootstrap(tmp_path, EXTENSION, "extensions/watch")
    (folder / "lambda_function.py").write_text("def lambda_handler(event, context):\n    return event\n")
    (folder / "requirements.txt").write_text("awslambdaric\n")
    served = serve(folder, *RIC)

    answer, document, _ = _invoke(served, {"a": 1})

    assert document == {"a": 1}
    assert "lambda_function.lambda_handler" in served.wait_for("^REGISTERED .*")[0]
    served.wait_for(f"^EVENT INVOKE {answer.headers['x-amzn-requestid']}$")
    assert served.stop() == 0
    served.wait_for("^EVENT SHUTDOWN spindown$")


def test_client_for_several_invocations_forks_and_polls(serve):
    served = serve(
        {
            "lambda_function.py": """
            import os
            def lambda_handler(event, context):
                return {"pid": os.getpid(), "parent": os.getppid()}
            """
        },
        *RIC,
        clients=True,
        env={"AWS_LAMBDA_MAX_CONCURRENCY": "2"},
    )

    said = [_invoke(served, {})[1] for _ in range(6)]

    assert len({item["parent"] for item in said}) == 1
    assert {item["pid"] for item in said}.isdisjoint({item["parent"] for item in said})
    assert served.stop() == 0
