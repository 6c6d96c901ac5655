"""`pelton run` makes its process the function's, so each case runs in a process of its own."""

import http.client
import http.server
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

PROGRAM = "import json, sys\nfrom pelton.cli.run import run\nsys.exit(run(**json.loads(sys.argv[1])))\n"
OPENFUNCTION = "from functions_framework.context.user_context import UserContext\n"
LIMIT_S = 20


class Running:
    """A `pelton run` that is ready."""

    def __init__(self, process):
        self.process = process
        self.error = b""
        self.line, self.port = "", 0

    def wait_ready(self):
        self.read_until(rb"ready http://\S+:(\d+) .*\n")
        match = re.search(rb"ready http://\S+:(\d+) .*\n", self.error)
        assert match is not None
        self.line, self.port = match[0].decode().strip(), int(match[1])
        self.error = self.error[match.end() :]
        return self

    def read_until(self, pattern):
        deadline = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.error):
            left = deadline - time.monotonic()
            assert left > 0, self.error.decode()
            if select.select([self.process.stderr], [], [], left)[0]:
                chunk = os.read(self.process.stderr.fileno(), 65536)
                assert chunk, f"ended early: {self.error.decode()}"
                self.error += chunk

    def get(self, path="/", method="GET", body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT_S)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)


@pytest.fixture
def start(tmp_path):
    started = []

    def begin(text, env=None, ready=True, **arguments):
        (tmp_path / "fn").mkdir(exist_ok=True)
        if text is not None:
            (tmp_path / "fn" / "main.py").write_text(text)
        arguments = {"source": str(tmp_path / "fn"), "port": 0} | arguments
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **{k: v for k, v in os.environ.items() if k not in {"PORT", "FUNC_CONTEXT"}},
                "PELTON_HOME": str(tmp_path / "home"),
                "PYTHONPATH": os.pathsep.join(sys.path),
                **(env or {}),
            },
        )
        started.append(process)
        running = Running(process)
        return running.wait_ready() if ready else running

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def sink():
    """An HTTP server that keeps the bodies it gets."""

    bodies = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "6")
            self.end_headers()
            self.wfile.write(b"thanks")

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def failure(running):
    _, error = running.process.communicate(timeout=LIMIT_S)
    return running.process.returncode, error.decode()


def test_function_answers_prints_plainly_and_ends_with_0(start):
    running = start(OPENFUNCTION + "def hi(context: UserContext):\n    print('called')\n    return 'hi'\n")

    assert running.line == (
        f"ready http://127.0.0.1:{running.port} convention=openfunction target=hi signature=openfunction"
    )
    assert running.get() == (200, "hi")
    assert running.get("/favicon.ico")[0] == 404
    assert running.stop() == 0
    assert running.process.stdout.read() == b"called\n"


def test_frameworks_variables_are_honoured_and_flags_win(start, tmp_path):
    source = "def a(request):\n    return 'a'\ndef b(request):\n    return 'b'\n"
    env = {
        "FUNCTION_SOURCE": str(tmp_path / "fn" / "main.py"),
        "FUNCTION_TARGET": "b",
        "FUNCTION_SIGNATURE_TYPE": "http",
        "PORT": "0",
    }

    by_environment = start(source, env, source=None, port=None)
    by_flag = start(source, env, target="a")

    assert by_environment.get() == (200, "b")
    assert by_flag.get() == (200, "a")


@pytest.mark.parametrize(
    "output",
    [
        {"uri": "made", "componentName": "bus", "componentType": "pubsub.jetstream"},
        {"topic": "made", "componentName": "bus", "componentType": "pubsub.jetstream"},
    ],
    ids=["v1beta1", "merged"],
)
def test_topic_outputs_of_func_context_go_to_the_terminal(start, output):
    context = {"name": "shop", "port": "0", "outputs": {"made": output}}
    source = OPENFUNCTION + "def f(context: UserContext):\n    return str(context.send('made', {'n': 1}))\n"

    running = start(source, {"FUNC_CONTEXT": json.dumps(context)}, port=None)

    assert running.get()[0] == 200
    running.read_until(rb'output -> topic made: \{"n": 1\}\n')
    assert running.stop() == 0


def test_http_binding_is_called_for_real(start, sink):
    url, bodies = sink
    output = {"componentName": "hook", "componentType": "bindings.http", "metadata": {"url": url}}
    context = {"name": "shop", "outputs": {"hook": output | {"operation": "post"}}}
    source = OPENFUNCTION + "def f(context: UserContext):\n    return context.send('hook', 'hello').text()\n"

    running = start(source, {"FUNC_CONTEXT": json.dumps(context)})

    assert running.get() == (200, "thanks")
    assert bodies == [b"hello"]


def test_requirements_go_into_an_environment_unless_told_not_to(start, tmp_path):
    (tmp_path / "fn").mkdir()
    (tmp_path / "fn" / "requirements.txt").write_text(
        "no-such-package @ file:///nowhere/x-1-py3-none-any.whl\n"
    )
    source = "def f(request):\n    return 'ok'\n"

    code, error = failure(start(source, ready=False))

    assert code == 1
    assert "PEL-BUILD-003" in error
    assert start(source, install=False).get() == (200, "ok")


@pytest.mark.parametrize(
    ("source", "arguments", "code", "message"),
    [
        (None, {"source": "/no/such/place"}, 2, "no such source directory"),
        ("x = 1\n", {}, 2, "no function is recognised"),
        ("def f(:\n", {}, 2, "main.py:1: syntax error"),
        (
            "raise ValueError('oops')\ndef f(request): ...\n",
            {},
            1,
            "main.py:1: main.py raised ValueError: oops",
        ),
        ("def f(request): ...\n", {"target": "g"}, 2, "no function 'g'"),
        ("def f(request): ...\n", {"convention": "x"}, 2, "no convention 'x'"),
        ("def f(request): ...\n", {"port": 70000}, 2, "--port 70000"),
    ],
    ids=["directory", "nothing", "syntax", "import", "target", "convention", "port"],
)
def test_bad_input_has_a_sentence_and_an_exit_code(start, source, arguments, code, message):
    returned, error = failure(start(source, ready=False, **arguments))

    assert returned == code
    assert message in error


def test_port_in_use_names_the_flag(start):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        code, error = failure(start("def f(request): ...\n", ready=False, port=taken.getsockname()[1]))

    assert code == 1
    assert "--port" in error


def test_func_context_that_is_no_json_is_refused(start):
    code, error = failure(start("def f(request): ...\n", {"FUNC_CONTEXT": "{"}, ready=False))

    assert (code, "FUNC_CONTEXT is not JSON" in error) == (2, True)


def test_reload_serves_the_new_version_on_the_same_port_and_survives_a_broken_one(start, tmp_path):
    main = tmp_path / "fn" / "main.py"
    running = start("def f(request):\n    return 'one'\n", reload=True)
    port = running.port
    assert running.get() == (200, "one")

    main.write_text("def f(:\n")
    running.read_until(rb"syntax error[^\0]*waiting for a change of the source\n")
    running.error = b""
    main.write_text("def f(request):\n    return 'two'\n")
    running.wait_ready()

    assert (running.port, running.get()) == (port, (200, "two"))
    assert running.stop(signal.SIGINT) == 0
