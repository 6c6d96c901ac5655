"""Programs as functions: a Node server and a gRPC server, from zero and back to it."""

import shutil
import sys
import textwrap
import threading
from pathlib import Path

import grpc
import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-node-process"

GRPC = """
import os, sys
sys.path[:0] = {path!r}
from concurrent import futures
import grpc

def say(request, context):
    if request == b"fail":
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "not this")
    print("say", request.decode(), flush=True)
    return b"hello " + request

def count(requests, context):
    for request in requests:
        yield b"got " + request

server = grpc.server(futures.ThreadPoolExecutor(8))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("demo.Greeter", {{
    "Say": grpc.unary_unary_rpc_method_handler(say),
    "Count": grpc.stream_stream_rpc_method_handler(count),
}}),))
assert server.add_insecure_port("127.0.0.1:" + os.environ["PORT"])
server.start()
server.wait_for_termination()
"""


def _apply(platform, name, files, annotations, **more):
    place = platform.write(name, "", annotations=annotations, **more)
    (place / "main.py").unlink()
    for file, text in files.items():
        (place / file).write_text(text)
    return platform.cli("apply", "-f", place, "--wait")


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_a_node_server_runs_from_zero_and_back_to_it(shared):
    place = shared.root / "node-hello"
    shutil.copytree(EXAMPLE, place)

    shared.cli("apply", "-f", place / "function.yaml", "--wait")
    assert shared.function("node-hello")["workers"] == []
    first = shared.request("node-hello")
    echoed = shared.request("node-hello", "/echo", "POST", content=b"x" * 300_000)
    late = shared.request("node-hello", "/slow?ms=50")

    assert (first.status_code, first.text[:15]) == (200, "Hello from Node")
    assert echoed.content == b"x" * 300_000
    assert late.text == "slow\n"
    shared.until("its lines in the log", lambda: "GET /slow?ms=50" in shared.logs("node-hello"))
    programs = [pid for pid, words in shared.processes().items() if "server.js" in words]
    assert len(programs) == 1
    shared.until_at_zero("node-hello")
    assert not Path(f"/proc/{programs[0]}").exists()


def test_a_program_that_dies_is_started_again(shared):
    code = """
    import http.server, os
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/die":
                os._exit(9)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(str(os.getpid()).encode())
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
    """
    files = {"server.py": textwrap.dedent(code)}
    _apply(shared, "mortal", files, {"pelton.dev/command": f"{sys.executable} -I server.py"})
    before = shared.request("mortal").text

    died = shared.request("mortal", "/die")

    assert died.status_code == 502
    after = shared.request("mortal")
    assert after.status_code == 200 and after.text != before
    shared.until(
        "the reason in the log", lambda: "exited with status 9; this instance ends" in shared.logs("mortal")
    )


def _break(platform, program):
    """Leave a note for a deployed program where it alone can see it: in its bundle."""
    for bundle in (platform.home / "bundles").iterdir():
        source = bundle / "program.py"
        if source.exists() and source.read_text() == program:
            bundle.chmod(0o755)
            (bundle / "broken").touch()


SOMETIMES = """
import http.server, os, sys, time
if os.path.exists("broken"):
    {broken}
handler = http.server.BaseHTTPRequestHandler
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), handler).serve_forever()
"""


def test_a_program_that_does_not_come_up_is_refused_when_it_is_applied(shared):
    place = shared.write("mute", "", annotations={"pelton.dev/command": "sh -c 'echo no; exit 7'"})

    said = shared.cli("apply", "-f", place, "--wait", code=None)

    assert said.code != 0
    assert "sh exited with status 7 before it listened" in said.text
    assert "\nno\n" in said.text


def test_a_program_that_does_not_listen_any_more_is_a_503_with_the_reason(shared):
    annotations = {
        "pelton.dev/command": f"{sys.executable} program.py",
        "pelton.dev/start-timeout": "3s",
    }
    program = SOMETIMES.format(broken="time.sleep(100)")
    _apply(shared, "silent", {"program.py": program}, annotations)
    _break(shared, program)

    answer = shared.request("silent")

    assert answer.status_code == 503
    assert "did not listen within 3 s" in answer.text


def test_a_missing_program_is_refused_when_it_is_applied(shared):
    place = shared.write("absent", "", annotations={"pelton.dev/command": "./nothing-here"})

    said = shared.cli("apply", "-f", place, "--wait", code=None)

    assert said.code != 0
    assert "there is no program './nothing-here'" in said.text


def test_a_grpc_server_runs_from_zero_and_back_to_it(shared):
    annotations = {"pelton.dev/command": f"{sys.executable} server.py", "pelton.dev/protocol": "h2c"}
    files = {"server.py": GRPC.format(path=[entry for entry in sys.path if entry.endswith("-packages")])}
    _apply(shared, "greeter", files, annotations)
    assert shared.function("greeter")["workers"] == []
    target = shared.endpoints["gateway"].removeprefix("http://")
    options = [("grpc.default_authority", "greeter.default.localhost"), ("grpc.enable_http_proxy", 0)]

    with grpc.insecure_channel(target, options=options) as channel:
        say = channel.unary_unary("/demo.Greeter/Say")
        count = channel.stream_stream("/demo.Greeter/Count")

        assert say(b"zero", timeout=30) == b"hello zero"

        with pytest.raises(grpc.RpcError) as refused:
            say(b"fail", timeout=30)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert refused.value.details() == "not this"

        more = threading.Event()

        def ask():
            yield b"1"
            more.wait(30)
            yield b"2"

        answers = count(ask(), timeout=60)
        assert next(answers) == b"got 1"  # while the request is still being sent
        shared.until(
            "the stream in the load", lambda: shared.function("greeter")["workers"][0]["in_flight"] == 1
        )
        more.set()
        assert list(answers) == [b"got 2"]

        for _ in range(20):
            assert say(b"warm", timeout=30) == b"hello warm"
        shared.until("its lines in the log", lambda: "say warm" in shared.logs("greeter"))
        shared.until_at_zero("greeter")
        assert say(b"again", timeout=30) == b"hello again"


def test_a_grpc_server_that_does_not_start_is_unavailable_with_the_reason(shared):
    annotations = {"pelton.dev/command": f"{sys.executable} program.py", "pelton.dev/protocol": "h2c"}
    program = SOMETIMES.format(broken="sys.exit(5)")
    _apply(shared, "broken", {"program.py": program}, annotations)
    _break(shared, program)
    target = shared.endpoints["gateway"].removeprefix("http://")
    options = [("grpc.default_authority", "broken.default.localhost"), ("grpc.enable_http_proxy", 0)]

    with grpc.insecure_channel(target, options=options) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/demo.Greeter/Say")(b"x", timeout=30)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "exited with status 5" in refused.value.details()
