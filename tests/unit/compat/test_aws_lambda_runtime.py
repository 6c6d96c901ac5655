"""A runtime as a child of the worker: real processes that speak the Runtime API with `http.client`."""

import asyncio
import json
import os
import sys
import time

import pytest

from pelton.compat.aws_lambda import runtime_api
from pelton.compat.aws_lambda.calls import LambdaCall
from pelton.compat.aws_lambda.context import FunctionInfo
from pelton.errors import FunctionLoadError
from pelton.model.invocation import LoadRequest

CLIENT = """#!{python} -IS
import http.client, json, os, sys, threading, time
api = os.environ["AWS_LAMBDA_RUNTIME_API"]
def ask(method, path, body=None, headers={{}}, base="/2018-06-01/runtime/", connection=None):
    connection = connection or http.client.HTTPConnection(api)
    connection.request(method, base + path, body, headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()
def invocations(connection=None):
    while True:
        status, headers, body = ask("GET", "invocation/next", connection=connection)
        if status != 200:
            sys.exit(9)
        yield headers["Lambda-Runtime-Aws-Request-Id"], json.loads(body)
def answer(request_id, value, what="response", **headers):
    return ask("POST", f"invocation/{{request_id}}/{{what}}", json.dumps(value), headers)
"""
ECHO = """
for request_id, event in invocations():
    answer(request_id, {"pid": os.getpid(), "event": event, "id": request_id})
"""


def _info(folder, **more):
    fields = {
        "name": "hello",
        "version": "$LATEST",
        "handler": "main.handler",
        "memory_mb": "128",
        "region": "eu-west-1",
        "account": "012345678912",
        "log_group": "group",
        "log_stream": "stream",
        "task_root": str(folder),
        "timeout_s": 30.0,
        "options": {},
    }
    return FunctionInfo(**{**fields, **more})


def _write(path, program):
    path.parent.mkdir(exist_ok=True)
    path.write_text(CLIENT.format(python=sys.executable) + program)
    path.chmod(0o755)
    return str(path)


@pytest.fixture
async def start(tmp_path):
    running = []

    async def start(program=ECHO, *, extensions=(), **more):
        path = _write(tmp_path / "bootstrap", program)
        companions = [_write(tmp_path / "extensions" / name, text) for name, text in extensions]
        plan = runtime_api.RuntimePlan(argv=[path], env={}, extensions=companions, **more)
        runtime = runtime_api.Runtime(plan, _info(tmp_path))
        running.append(runtime)
        await runtime.start()
        return runtime

    yield start
    for runtime in running:
        await runtime.stop()


def _call(request_id="id-1", event=None, timeout_s=20.0, **more):
    return LambdaCall(request_id=request_id, event=event, deadline=time.monotonic() + timeout_s, **more)


async def _answer(runtime, *arguments, **more):
    result = await runtime.invoke(_call(*arguments, **more))
    assert not result.error, result
    return json.loads(result.payload)


async def test_runtime_is_there_after_start_and_serves_one_after_the_other(start):
    runtime = await start()

    first = await _answer(runtime, "id-1", {"a": 1})
    second = await _answer(runtime, "id-2", [])

    assert (first["event"], first["id"]) == ({"a": 1}, "id-1")
    assert (second["event"], second["pid"]) == ([], first["pid"])


async def test_invocations_at_once_wait_for_each_other(start):
    runtime = await start()

    answers = await asyncio.gather(*(_answer(runtime, f"id-{n}", n) for n in range(20)))

    assert [answer["event"] for answer in answers] == list(range(20))


async def test_runtime_for_several_gets_them_at_once(start):
    runtime = await start(
        """
def work(barrier=threading.Barrier(3)):
    for request_id, event in invocations():
        barrier.wait(30)
        answer(request_id, event)
for _ in range(3):
    threading.Thread(target=work).start()
""",
        several=True,
    )

    assert await asyncio.gather(*(_answer(runtime, f"id-{n}", n) for n in range(3))) == [0, 1, 2]


async def test_overlong_invocation_kills_the_runtime_and_the_next_finds_another(start):
    runtime = await start(
        """
for request_id, event in invocations():
    if event == "hang":
        time.sleep(60)
    answer(request_id, os.getpid())
"""
    )
    pid = await _answer(runtime)

    result = await runtime.invoke(_call("id-2", "hang", timeout_s=0.3))

    assert (result.error, result.error_type) == (True, "Sandbox.Timedout")
    assert result.error_message == "RequestId: id-2 Error: Task timed out after 0.30 seconds"
    assert await _answer(runtime, "id-3") != pid
    assert not os.path.exists(f"/proc/{pid}")


async def test_descendants_of_a_killed_runtime_die_with_it(start):
    runtime = await start(
        """
for request_id, event in invocations():
    if event == "hang":
        time.sleep(60)
    child = os.fork()
    if not child:
        time.sleep(60)
    answer(request_id, child)
"""
    )
    child = await _answer(runtime)

    await runtime.invoke(_call("id-2", "hang", timeout_s=0.2))
    await _answer(runtime, "id-3")

    assert _gone(child)


def _gone(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("os._exit(3)", "Runtime exited with error: exit status 3"),
        ("sys.exit(0)", "Runtime exited without providing a reason"),
        ("os.kill(os.getpid(), 11)", "Runtime exited with error: signal: segmentation fault"),
    ],
)
async def test_runtime_that_ends_fails_its_invocation_and_is_started_again(start, how, text):
    runtime = await start(
        f"""
for request_id, event in invocations():
    if event == "end":
        {how}
    answer(request_id, 1)
"""
    )

    result = await runtime.invoke(_call("id-1", "end"))

    assert (result.error, result.error_type) == (True, "Runtime.ExitError")
    assert result.error_message == f"RequestId: id-1 Error: {text}"
    assert await _answer(runtime, "id-2") == 1


async def test_answer_of_a_runtime_that_ends_right_after_it_counts(start):
    runtime = await start(
        """
import socket
for request_id, event in invocations():
    host, port = api.split(":")
    sock = socket.create_connection((host, int(port)))
    path = f"/2018-06-01/runtime/invocation/{request_id}/response"
    sock.sendall(f"POST {path} HTTP/1.1\\r\\nContent-Length: 1\\r\\n\\r\\n7".encode())
    os._exit(1)
"""
    )

    assert [await _answer(runtime, f"id-{n}") for n in range(3)] == [7, 7, 7]


async def test_init_error_is_the_answer_and_the_next_invocation_tries_again(start, tmp_path, capsys):
    runtime = await start(
        """
if not os.path.exists("repaired"):
    document = {"errorMessage": "no module x", "errorType": "Runtime.ImportModuleError"}
    ask("POST", "init/error", json.dumps(document))
    sys.exit(1)
for request_id, event in invocations():
    answer(request_id, 1)
"""
    )
    assert "Runtime.ImportModuleError: no module x" in capsys.readouterr().err

    result = await runtime.invoke(_call())

    assert (result.error, result.error_type) == (True, "Runtime.ImportModuleError")
    (tmp_path / "repaired").touch()
    assert await _answer(runtime) == 1


async def test_exit_before_the_first_next_is_an_init_failure(start):
    runtime = await start("sys.exit(4)")

    results = await asyncio.gather(*(runtime.invoke(_call(f"id-{n}")) for n in range(2)))

    assert {result.error_type for result in results} == {"Runtime.ExitError"}
    assert [result.error_message for result in results] == [
        f"RequestId: id-{n} Error: Runtime exited with error: exit status 4" for n in range(2)
    ]


async def test_program_that_cannot_be_run_is_an_init_failure(start, tmp_path):
    runtime = await start()
    await runtime.stop()
    (tmp_path / "bootstrap").write_bytes(b"no program")
    await runtime.start()

    result = await runtime.invoke(_call())

    assert (result.error, result.error_type) == (True, "Runtime.InvalidEntrypoint")


async def test_slow_init_is_waited_for_by_the_invocation_and_its_limit_counts(start, monkeypatch):
    monkeypatch.setattr(runtime_api, "_INIT_S", 0.05)
    runtime = await start("time.sleep(60)")

    result = await runtime.invoke(_call(timeout_s=0.2))

    assert result.error_type == "Sandbox.Timedout"


async def test_caller_that_leaves_does_not_stop_the_runtime(start, tmp_path):
    runtime = await start(
        """
for request_id, event in invocations():
    while event and not os.path.exists("go"):
        time.sleep(0.005)
    answer(request_id, os.getpid())
"""
    )
    pid = await _answer(runtime)
    leaving = asyncio.create_task(runtime.invoke(_call("id-2", "wait")))
    waiting = asyncio.create_task(_answer(runtime, "id-3"))
    await asyncio.sleep(0.02)

    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    (tmp_path / "go").touch()

    assert await waiting == pid


async def test_stop_ends_what_runs_and_answers_who_waits(start):
    runtime = await start("for _ in invocations():\n    time.sleep(60)")
    running = asyncio.create_task(runtime.invoke(_call()))
    waiting = asyncio.create_task(runtime.invoke(_call("id-2")))
    await asyncio.sleep(0.02)

    await runtime.stop()

    assert {(await running).error_type, (await waiting).error_type} == {"Runtime.ExitError"}


async def test_streamed_answer_ends_with_an_error_when_the_runtime_is_killed(start):
    runtime = await start(
        """
for request_id, event in invocations():
    def pieces():
        yield b"one"
        time.sleep(60)
    ask("POST", f"invocation/{request_id}/response", pieces(), {
        "Lambda-Runtime-Function-Response-Mode": "streaming"})
"""
    )

    result = await runtime.invoke(_call(timeout_s=0.4, wants_stream=True))

    assert [chunk async for chunk in result.stream] == [b"one"]
    kind, document = result.stream_error()
    assert (kind, json.loads(document)["errorType"]) == ("Sandbox.Timedout", "Sandbox.Timedout")


PRINTING = """
for request_id, event in invocations():
    print("x" * event + "hello", request_id, flush=True)
    os.write(2, b"an error line\\n")
    answer(request_id, 1)
"""


async def test_end_of_the_log_is_given_to_who_asks(start, capfd):
    runtime = await start(PRINTING)
    await _answer(runtime, "id-1", 0)

    result = await runtime.invoke(_call("id-2", 0, wants_tail=True))
    long = await runtime.invoke(_call("id-3", 100_000, wants_tail=True))

    lines = result.log_tail.decode().splitlines()
    assert lines[:4] == [
        "START RequestId: id-2 Version: $LATEST",
        "hello id-2",
        "an error line",
        "END RequestId: id-2",
    ]
    assert lines[4].startswith("REPORT RequestId: id-2\tDuration: ")
    assert "\tInit Duration: " in lines[4]
    assert len(long.log_tail) == 4096
    printed = capfd.readouterr().out
    assert "hello id-1\nan error line\nhello id-2\n" in printed
    assert "START" not in printed


async def test_log_of_an_invocation_that_took_too_long_says_so(start):
    runtime = await start("for _ in invocations():\n    print('begun', flush=True)\n    time.sleep(60)")

    result = await runtime.invoke(_call(timeout_s=0.3, wants_tail=True))

    assert result.error_type == "Sandbox.Timedout"
    assert "begun\n" in result.log_tail.decode()
    assert result.log_tail.decode().endswith("Status: timeout\t\n")


# --- extensions ---

EXTENSION = """
EXTENSION_BASE = "/2020-01-01/extension/"
name = os.path.basename(sys.argv[0])
def say(what, *more):
    with open(os.environ["LAMBDA_TASK_ROOT"] + "/" + name + ".log", "a") as file:
        print(what, *more, file=file, flush=True)
def register(*events, **headers):
    headers["Lambda-Extension-Name"] = name
    body = json.dumps({"events": events})
    status, got, body = ask("POST", "register", body, headers, EXTENSION_BASE)
    return status, got["Lambda-Extension-Identifier"], json.loads(body)
def event(identifier):
    headers = {"Lambda-Extension-Identifier": identifier}
    return json.loads(ask("GET", "event/next", None, headers, EXTENSION_BASE)[2])
"""
FOLLOW = (
    EXTENSION
    + """
_, me, _ = register("INVOKE", "SHUTDOWN")
while True:
    what = event(me)
    say(what["eventType"], what.get("requestId") or what.get("shutdownReason"))
    if what["eventType"] == "SHUTDOWN":
        break
"""
)


async def _extended(start, tmp_path, monkeypatch, program=ECHO, **extensions):
    monkeypatch.setenv("LAMBDA_TASK_ROOT", str(tmp_path))
    return await start(program, extensions=list(extensions.items()))


async def test_extension_hears_of_invocations_and_of_the_end(start, tmp_path, monkeypatch):
    runtime = await _extended(start, tmp_path, monkeypatch, follow=FOLLOW)

    await _answer(runtime, "id-1")
    await _answer(runtime, "id-2")
    await runtime.stop()

    heard = (tmp_path / "follow.log").read_text().splitlines()
    assert heard == ["INVOKE id-1", "INVOKE id-2", "SHUTDOWN spindown"]


async def test_next_invocation_waits_for_extensions_but_the_answer_does_not(start, tmp_path, monkeypatch):
    go_on = tmp_path / "go-on"
    wait = f"    while not os.path.exists({str(go_on)!r}):\n        time.sleep(0.005)\n"
    slow = EXTENSION + '_, me, _ = register("INVOKE")\nwhile event(me):\n' + wait
    runtime = await _extended(start, tmp_path, monkeypatch, slow=slow)

    await _answer(runtime, "id-1")
    second = asyncio.create_task(_answer(runtime, "id-2"))
    assert not (await asyncio.wait([second], timeout=0.2))[0]
    go_on.touch()
    await second


async def test_extension_that_ends_in_init_fails_the_init(start, tmp_path, monkeypatch):
    runtime = await _extended(start, tmp_path, monkeypatch, broken="sys.exit(5)")

    result = await runtime.invoke(_call())

    assert result.error_type == "Extension.Crash"
    assert "broken exited with status 5" in result.error_message


async def test_extension_that_ends_later_takes_the_runtime_along(start, tmp_path, monkeypatch):
    program = """
for request_id, event in invocations():
    if event:
        time.sleep(60)
    answer(request_id, os.getpid())
"""
    fickle = EXTENSION + '_, me, _ = register("INVOKE")\nevent(me)\nevent(me)\nos._exit(0)\n'
    runtime = await _extended(start, tmp_path, monkeypatch, program, fickle=fickle)
    pid = await _answer(runtime)

    result = await runtime.invoke(_call("id-2", "hang"))

    assert result.error_type == "Extension.Crash"
    assert await _answer(runtime, "id-3") != pid


async def test_extension_that_reports_an_init_error_fails_the_init(start, tmp_path, monkeypatch):
    sorry = (
        EXTENSION
        + """
_, me, _ = register()
headers = {"Lambda-Extension-Identifier": me, "Lambda-Extension-Function-Error-Type": "Extension.NoKey"}
ask("POST", "init/error", "{}", headers, EXTENSION_BASE)
sys.exit(1)
"""
    )
    runtime = await _extended(start, tmp_path, monkeypatch, sorry=sorry)

    result = await runtime.invoke(_call())

    assert (result.error_type, "Extension.NoKey" in result.error_message) == ("Extension.InitError", True)


# --- what is run ---


def _unused(_output):
    raise NotImplementedError


def _request(folder, **options):
    return LoadRequest(
        source=str(folder),
        target="main.handler",
        signature="runtime",
        context={},
        send=_unused,
        send_async=_unused,
        bundle=str(folder),
        options=options,
    )


def _plan(folder, **options):
    return runtime_api.plan_of(_request(folder, **options), _info(folder))


def test_bootstrap_of_the_bundle_is_run_with_the_platforms_variables(tmp_path):
    path = _write(tmp_path / "bootstrap", "")

    plan = _plan(tmp_path)

    assert list(plan.argv) == [path]
    assert plan.env["LAMBDA_TASK_ROOT"] == str(tmp_path)
    assert plan.env["_HANDLER"] == "main.handler"
    assert plan.env["AWS_REGION"] == plan.env["AWS_DEFAULT_REGION"] == "eu-west-1"
    assert plan.env["AWS_LAMBDA_INITIALIZATION_TYPE"] == "on-demand"
    assert "AWS_EXECUTION_ENV" not in plan.env


def test_bootstrap_that_is_missing_or_not_executable_is_refused(tmp_path):
    with pytest.raises(FunctionLoadError, match="no bootstrap"):
        _plan(tmp_path)
    (tmp_path / "bootstrap").write_text("")
    with pytest.raises(FunctionLoadError, match="not executable"):
        _plan(tmp_path)


def test_command_wins_over_the_bootstrap(tmp_path):
    _write(tmp_path / "bootstrap", "")
    path = _write(tmp_path / "mine", "")

    assert list(_plan(tmp_path, command="./mine --fast").argv) == [path, "--fast"]


def test_client_that_is_not_installed_is_refused(tmp_path):
    with pytest.raises(FunctionLoadError, match="awslambdaric is not installed"):
        _plan(tmp_path, **{"lambda-runtime": "awslambdaric"})


def test_extensions_are_the_executables_of_the_folder(tmp_path):
    _write(tmp_path / "bootstrap", "")
    paths = [_write(tmp_path / "extensions" / name, "") for name in ("a", "b")]
    (tmp_path / "extensions" / "README").write_text("")

    assert [path for path in _plan(tmp_path).extensions if path.startswith(str(tmp_path))] == paths


def test_max_concurrency_makes_it_several(tmp_path, monkeypatch):
    _write(tmp_path / "bootstrap", "")
    assert not _plan(tmp_path).several
    monkeypatch.setenv("AWS_LAMBDA_MAX_CONCURRENCY", "3")
    assert _plan(tmp_path).several


def test_init_caching_is_asked_for_by_option(tmp_path):
    _write(tmp_path / "bootstrap", "")

    plan = _plan(tmp_path, **{"lambda-init-caching": "true"})

    assert (plan.caching, plan.env["AWS_LAMBDA_INITIALIZATION_TYPE"]) == (True, "snap-start")
