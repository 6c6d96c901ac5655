"""Invocations that a function accepts now and carries out later, and the addresses of foreign clients."""

import httpx
import pytest

pytestmark = [pytest.mark.connected, pytest.mark.long, pytest.mark.timeout(120)]

LAMBDA = """
import json
def lambda_handler(event, context):
    print("handled", json.dumps(event), context.aws_request_id, flush=True)
    if event.get("fail"):
        raise ValueError("no")
    return {"got": event}
"""
WHISK = """
def main(params):
    print("handled", params.get("n"), flush=True)
    return {"n": params.get("n")}
"""


def invoke(platform, name, payload, kind="RequestResponse", **headers):
    return httpx.post(
        f"{platform.endpoints['gateway']}/2015-03-31/functions/{name}/invocations",
        content=payload,
        headers={"x-amz-invocation-type": kind, **headers},
        timeout=30,
    )


def test_lambda_client_finds_the_function_by_its_own_paths(shared):
    shared.apply(
        "orders",
        LAMBDA,
        env={"FUNC_NAME": "lambda_handler"},
        annotations={"pelton.dev/convention": "lambda", "pelton.dev/max-attempts": "1"},
    )

    answer = invoke(shared, "orders", b'{"n": 1}')
    assert (answer.status_code, answer.json()) == (200, {"got": {"n": 1}})
    assert answer.headers["x-amz-executed-version"] == "$LATEST"
    arn = "arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Aorders"
    assert invoke(shared, arn, b'{"n": 2}').json() == {"got": {"n": 2}}
    assert invoke(shared, "orders:$LATEST", b'{"n": 3}').json() == {"got": {"n": 3}}
    assert invoke(shared, "orders", b"", "DryRun").status_code == 204
    missing = invoke(shared, "nothing", b"{}")
    assert missing.status_code == 404
    assert missing.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert "nothing" in missing.json()["Message"]
    failed = invoke(shared, "orders", b'{"fail": true}')
    assert (failed.status_code, failed.headers["x-amz-function-error"]) == (200, "Unhandled")
    assert failed.json()["errorType"] == "ValueError"


def test_event_invocation_is_stored_and_carried_out_once(shared):
    shared.apply(
        "later",
        LAMBDA,
        env={"FUNC_NAME": "lambda_handler"},
        annotations={"pelton.dev/convention": "lambda", "pelton.dev/max-attempts": "1"},
    )

    answer = invoke(shared, "later", b'{"n": 41}', "Event")
    assert (answer.status_code, answer.content) == (202, b"")
    shared.until("the deferred call", lambda: 'handled {"n": 41}' in shared.logs("later"))
    request_id = answer.headers["x-amzn-requestid"]
    assert f'handled {{"n": 41}} {request_id}' in shared.logs("later")

    assert invoke(shared, "later", b'{"fail": true}', "Event").status_code == 202
    shared.until("the dead letter", lambda: "later" in shared.cli("dlq", "list").out, every_s=0.5)
    assert "ValueError" in shared.cli("dlq", "list").out or "no" in shared.cli("dlq", "list").out


def test_deferred_invocation_survives_the_death_of_the_runtime(shared):
    import os
    import signal

    shared.apply(
        "survivor",
        LAMBDA,
        env={"FUNC_NAME": "lambda_handler"},
        annotations={"pelton.dev/convention": "lambda"},
    )
    invoke(shared, "survivor", b'{"n": 0}')
    for number in range(1, 21):
        assert invoke(shared, "survivor", f'{{"n": {number}}}'.encode(), "Event").status_code == 202
        if number == 10:
            os.kill(shared.part("runtime")["pid"], signal.SIGKILL)

    wanted = [f'handled {{"n": {number}}}' for number in range(1, 21)]
    shared.until("all of them", lambda: all(line in shared.logs("survivor") for line in wanted))


def test_openwhisk_addresses_reach_the_action(shared):
    shared.apply("whisk", WHISK, annotations={"pelton.dev/convention": "openwhisk"})
    gateway = shared.endpoints["gateway"]

    web = httpx.get(f"{gateway}/api/v1/web/_/default/whisk.json?n=5", timeout=30)
    assert (web.status_code, web.json()) == (200, {"n": "5"})
    blocking = httpx.post(
        f"{gateway}/api/v1/namespaces/_/actions/whisk?blocking=true&result=true", json={"n": 6}, timeout=30
    )
    assert (blocking.status_code, blocking.json()) == (200, {"n": 6})
    later = httpx.post(f"{gateway}/api/v1/namespaces/_/actions/whisk", json={"n": 7}, timeout=30)
    assert later.status_code == 202 and later.json()["activationId"]
    shared.until("the activation", lambda: "handled 7" in shared.logs("whisk"))
