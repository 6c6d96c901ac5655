"""`pelton run` as a developer meets it: reload, access lines, saved events, broken and stuck functions."""

import json
import os
import subprocess
import sys
import threading

import httpx
import pytest

HELLO = "def f(request):\n    return {!r}\n"


def test_address_curl_line_and_access_lines_are_printed(serve):
    served = serve({"main.py": "def f(request):\n    return 'x', 201 if request.path == '/' else 500\n"})

    assert served.get("/").status_code == 201
    assert served.get("/broken?q=1").status_code == 500
    served.wait_for(rf"^try +curl {served.url}/$")
    served.wait_for(r"^GET / 201 \d+\.\d ms cold$")
    served.wait_for(r"^GET /broken\?q=1 500 \d+\.\d ms warm$")


def test_saved_source_serves_at_once_and_a_broken_one_shows_its_traceback(serve, tmp_path):
    served = serve({"main.py": HELLO.format("one"), "helper.py": ""}, "--reload")
    main = tmp_path / "function-0" / "main.py"
    assert served.get().text == "one"

    main.write_text("import json\n\ndef g():\n    json.loads('{')\n\ng()\n\ndef f(request): ...\n")
    found = served.wait_for(
        r"(?s)main.py\", line 6.*main.py\", line 4, in g\n.*JSONDecodeError.*error: [^\n]*"
    )
    assert "failed after" in found[0] or "failed after" in served.output
    served.wait_for("waiting for a change of the source")
    main.write_text(HELLO.format("two"))
    served.wait_for(r"(?s)waiting for a change.*\nready ")
    assert served.get().text == "two"
    assert served.stop() == 0


def test_function_that_overruns_its_limit_is_ended_and_served_anew(serve):
    served = serve(
        {
            "main.py": """
            import os, time
            def f(request):
                if request.path == "/stuck":
                    time.sleep(3600)
                return str(os.getpid())
            """
        },
        "--annotation",
        "request-timeout=0.2s",
        "--annotation",
        "concurrency=1",
    )
    first = served.get().text

    stuck = served.get("/stuck")
    assert stuck.status_code == 504
    served.wait_for("it overran its time limit")
    assert served.get().text != first


def test_process_that_ends_in_a_call_is_replaced(serve):
    served = serve({"main.py": "import os\ndef f(request):\n    os._exit(9)\n"})

    for _ in range(2):
        with pytest.raises(httpx.HTTPError):
            served.get()
    assert served.wait_for("^the process ended, exit code 9: starting again")
    assert served.process.poll() is None


def test_process_that_ends_before_it_serves_ends_the_command_with_its_code(serve):
    served = serve({"main.py": "import os\nos._exit(9)\ndef f(request):\n    pass\n"})

    assert served.process.wait(30) == 9


SOURCES = {
    "gcf": "import functions_framework\n@functions_framework.cloud_event\ndef f(event):\n"
    "    print(event['type'], event.data)\n    assert event.data != {'bad': 1}\n",
    "http": "def f(request):\n    return {'got': request.get_json()}\n",
}
EVENT = {"specversion": "1.0", "id": "1", "source": "s", "type": "order.made", "data": {"n": 1}}


@pytest.mark.parametrize(
    ("source", "event", "code", "said"),
    [
        ("gcf", EVENT, 0, r"order.made {'n': 1}"),
        ("gcf", EVENT | {"data": {"bad": 1}}, 1, r"event failed: AssertionError"),
        ("gcf", EVENT | {"type": ""}, 1, r"type"),
        ("http", {"plain": True}, 0, r'{"got":\s?{"plain":\s?true}}'),
    ],
)
def test_saved_event_is_handled_once_with_an_exit_code(tmp_path, clients_home, source, event, code, said):
    (tmp_path / "main.py").write_text(SOURCES[source])
    (tmp_path / "event.json").write_text(json.dumps(event))

    done = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", "run", tmp_path, "--event", tmp_path / "event.json"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PELTON_HOME": str(clients_home)},
    )

    assert done.returncode == code, done.stdout + done.stderr
    import re

    assert re.search(said, done.stdout + done.stderr), done.stdout + done.stderr


def test_saved_event_may_send_and_keep_state(tmp_path, clients_home):
    (tmp_path / "main.py").write_text(
        "from functions_framework.context.user_context import UserContext\n"
        "def f(context: UserContext):\n"
        "    context.state.save({'key': 'k', 'value': 7})\n"
        "    print('kept', context.state.get('k'))\n"
        "    context.send('done', 'sent')\n"
    )
    (tmp_path / "event.json").write_text(json.dumps(EVENT))
    context = {
        "name": "f",
        "outputs": {"done": {"componentName": "done", "componentType": "pubsub.jetstream", "topic": "ended"}},
        "states": {"book": {"componentName": "book", "componentType": "state.in-memory"}},
    }

    done = subprocess.run(
        [sys.executable, "-m", "pelton.cli.main", "run", tmp_path, "--event", tmp_path / "event.json"],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PELTON_HOME": str(clients_home), "FUNC_CONTEXT": json.dumps(context)},
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept 7" in done.stdout
    assert 'output -> topic ended: "sent"' in done.stderr


def test_client_that_sends_a_byte_a_second_hinders_nobody(serve):
    served = serve({"main.py": HELLO.format("ok")})
    import socket

    host, port = served.url.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for connection in slow:
        connection.sendall(b"GET / HT")
    results = []
    threads = [threading.Thread(target=lambda: results.append(served.get().text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for connection in slow:
        connection.close()

    assert results == ["ok"] * 4


def test_deferred_invocations_are_carried_out_in_the_process(serve):
    served = serve(
        {
            "lambda_function.py": """
            def lambda_handler(event, context):
                print("handled", event, flush=True)
                if event.get("fail"):
                    raise ValueError("no")
            """
        }
    )
    path = "/2015-03-31/functions/function/invocations"

    accepted = served.post(path, json={"n": 1}, headers={"x-amz-invocation-type": "Event"})
    assert (accepted.status_code, accepted.content) == (202, b"")
    served.wait_for(r"later \S+ ok attempt=1")
    assert "handled {'n': 1}" in served.output
    served.post(path, json={"fail": True}, headers={"x-amz-invocation-type": "Event"})
    served.wait_for(r"later \S+ failed: .*ValueError.*; again in 60 s")


def test_schedules_that_the_source_declares_fire(serve):
    served = serve(
        {
            "template.yaml": """
            Transform: AWS::Serverless-2016-10-31
            Resources:
              Tick:
                Type: AWS::Serverless::Function
                Properties:
                  Handler: app.tick
                  Runtime: python3.12
                  Events: {Often: {Type: Schedule, Properties: {Schedule: rate(1 minute)}}}
            """,
            "app.py": "def tick(event, context):\n    print(event['detail-type'], flush=True)\n",
        }
    )
    assert served.url  # waiting a minute is nobody's test; that it is known is shown by detection
    assert served.get("/").status_code < 600


def test_what_the_function_leaves_behind_ends_with_the_command(serve):
    served = serve(
        {
            "main.py": """
            import os, signal, time
            def f(request):
                pid = os.fork()
                if pid == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    while True:
                        time.sleep(60)
                return str(pid)
            """
        }
    )
    left = int(served.get().text)

    assert served.stop() == 0
    assert not os.path.exists(f"/proc/{left}")
