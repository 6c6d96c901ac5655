"""Programs of other languages behind `pelton run`."""

import http.client
import shutil
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "02-node-process"
NODE = pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")

# A server that says how it got a request; answers in ways that only a socket can.
ODD = """
import os, socket, sys, threading

def answer(conn):
    try:
        while True:
            data = b""
            while b"\\r\\n\\r\\n" not in data:
                got = conn.recv(65536)
                if not got:
                    return
                data += got
            path = data.split()[1].decode()
            if path == "/head":
                body = data.partition(b"\\r\\n\\r\\n")[0]
                conn.sendall(b"HTTP/1.1 200 OK\\r\\nX-Twice: a\\r\\nx-twice: b\\r\\n"
                             b"keep-alive: timeout=5\\r\\nX-Mine: 1\\r\\nconnection: x-mine\\r\\n"
                             b"content-length: %d\\r\\n\\r\\n%b" % (len(body), body))
            elif path == "/interim":
                conn.sendall(b"HTTP/1.1 103 Early Hints\\r\\nlink: x\\r\\n\\r\\n"
                             b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\nok")
            elif path == "/chunks":
                conn.sendall(b"HTTP/1.1 200 OK\\r\\ntransfer-encoding: chunked\\r\\n"
                             b"trailer: x-sum\\r\\n\\r\\n3\\r\\none\\r\\n")
                conn.sendall(b"3\\r\\ntwo\\r\\n0\\r\\nx-sum: 6\\r\\n\\r\\n")
            elif path == "/until-close":
                conn.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\nall of it")
                return
            elif path == "/cut":
                conn.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 10\\r\\n\\r\\nhalf")
                return
            elif path == "/hang-up":
                return
            elif path == "/junk":
                conn.sendall(b"SMTP ready\\r\\n")
                return
            elif path == "/204":
                conn.sendall(b"HTTP/1.1 204 No Content\\r\\nx-a: 1\\r\\n\\r\\n")
            elif path == "/304":
                conn.sendall(b"HTTP/1.1 304 Not Modified\\r\\ncontent-length: 99\\r\\netag: x\\r\\n\\r\\n")
            elif path == "/early":
                conn.sendall(b"HTTP/1.1 409 Conflict\\r\\ncontent-length: 5\\r\\n"
                             b"connection: close\\r\\n\\r\\nearly")
                while conn.recv(65536):
                    pass
                return
            elif path == "/wait":
                print("waiting", flush=True)
                print("left" if conn.recv(1) == b"" else "more", flush=True)
                return
            elif path == "/die":
                print("dying", flush=True)
                os._exit(7)
            else:
                body = b"" if data.startswith(b"HEAD") else b"hi"
                conn.sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 2\\r\\n\\r\\n" + body)
    finally:
        conn.close()

if os.environ.get("USE") == "socket":
    server = socket.socket(socket.AF_UNIX)
    server.bind(os.environ["PELTON_SOCKET"])
    server.listen()
else:
    server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
# At once: the worker beside it has its own line to say.
os.write(1, f"program pid {os.getpid()} in {os.getcwd()}\\n".encode())
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"""
PYTHON = f"{sys.executable} -u"


@NODE
def test_a_node_server_is_served_by_its_command(serve):
    served = serve(EXAMPLE, "--command", "node server.js")

    assert served.get().text.startswith("Hello from Node v")
    assert served.wait_for(r"ready .* convention=process target= signature=process")
    assert served.wait_for(r"^GET /$")
    big = bytes(range(256)) * 20_000
    answer = served.post("/echo", content=big, headers={"content-type": "application/x-own"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-own")
    assert answer.content == big
    chunks = served.post("/echo", content=iter([b"one ", b"two"]))
    assert chunks.text == "one two"
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda ms: served.get(f"/slow?ms={ms}"), range(16)))
    assert {answer.text for answer in answers} == {"slow\n"}
    assert served.stop() == 0


@pytest.mark.parametrize("use", ["port", "socket"])
def test_answers_pass_as_http_allows(serve, use):
    served = serve({"odd.py": ODD}, "--command", f"{PYTHON} odd.py", env={"USE": use})
    with httpx.Client(base_url=served.url) as client:
        sent = client.get("/head", headers={"x-forwarded-for": "1.2.3.4", "te": "trailers", "a": "b"})
        seen = sent.text.lower()
        assert sent.headers.get_list("x-twice") == ["a", "b"]
        assert "x-mine" not in sent.headers
        assert "x-forwarded-for: 1.2.3.4" in seen and "a: b" in seen and "x-request-id: " in seen
        assert "\nconnection:" not in seen and "\nte:" not in seen
        assert f"host: {served.url[7:]}" in seen

        assert client.get("/interim").text == "ok"
        assert client.get("/chunks").text == "onetwo"
        assert client.get("/until-close").text == "all of it"
        assert (client.get("/204").status_code, client.get("/304").headers["etag"]) == (204, "x")
        assert client.head("/").headers["content-length"] == "2"
        assert client.get("/").text == "hi"

        for path, said in (("/hang-up", "ended the connection before it answered"), ("/junk", "is not HTTP")):
            answer = client.get(path)
            assert (answer.status_code, said in answer.text) == (502, True)
        with pytest.raises(httpx.RemoteProtocolError):
            client.get("/cut")
        early = client.post("/early", content=b"x" * 300_000)
        assert (early.status_code, early.text) == (409, "early")
        assert client.get("/").text == "hi"


def test_a_client_that_leaves_is_noticed_by_the_program(serve):
    served = serve({"odd.py": ODD}, "--command", f"{PYTHON} odd.py")
    host, _, port = served.url[7:].partition(":")

    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(b"GET /wait HTTP/1.1\r\nhost: a\r\n\r\n")
        served.wait_for("^waiting$")

    served.wait_for("^left$")


def test_a_program_that_dies_takes_its_worker_along_after_the_answers(serve):
    served = serve({"odd.py": ODD}, "--command", f"{PYTHON} odd.py")

    answer = served.get("/die")

    assert answer.status_code == 502
    assert served.wait_for("exited with status 7; this instance ends with it")
    assert served.wait_for("^the process ended, exit code 1: starting again")


def test_a_program_ends_with_its_worker(serve):
    served = serve({"odd.py": ODD}, "--command", f"{PYTHON} odd.py")
    found = served.wait_for(r"^program pid (\d+) in (\S+)")
    assert served.url

    served.process.kill()

    deadline = time.monotonic() + 10
    process = Path(f"/proc/{found[1]}/stat")
    while process.exists() and ") Z" not in process.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--command", "nosuchprogram"), "there is no program 'nosuchprogram'"),
        (("--command", "odd.py"), "the program odd.py is not executable"),
        (("--command", "sh -c 'echo broken >&2; exit 4'"), "sh exited with status 4 before it listened"),
        (("--command", "sleep 60", "--annotation", "start-timeout=100ms"), "did not listen within 0.1 s"),
        (("--command", "sleep 60", "--annotation", "start-timeout=soon"), "'soon' is no time"),
        (("--command", "sleep 60", "--annotation", "protocol=h3"), "there is no protocol 'h3'"),
        (("--convention", "process"), "no command is given"),
    ],
)
def test_a_program_that_cannot_serve_is_reported(serve, flags, said):
    served = serve({"odd.py": ODD}, *flags)

    assert served.process.wait(20) == 1
    served.wait_for(said.replace("(", r"\("))
    assert "Traceback" not in served.output


def test_a_websocket_passes_through(serve):
    program = """
    import base64, hashlib, os, socket
    server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
    while True:
        conn, _ = server.accept()
        data = conn.recv(65536)
        if b"upgrade: websocket" in data.lower():
            conn.sendall(b"HTTP/1.1 101 Switching Protocols\\r\\nUpgrade: websocket\\r\\n"
                         b"Connection: Upgrade\\r\\n\\r\\n")
            while data := conn.recv(65536):
                conn.sendall(data.upper())
        elif b"upgrade" in data.lower():
            conn.sendall(b"HTTP/1.1 426 Upgrade Required\\r\\ncontent-length: 2\\r\\n\\r\\nno")
        conn.close()
    """
    served = serve({"echo.py": program}, "--command", f"{PYTHON} echo.py")
    host, _, port = served.url[7:].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=20)
    connection.request("GET", "/", headers={"Upgrade": "websocket", "Connection": "Upgrade"})
    sock = connection.sock
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(65536)
    sock.sendall(b"hello")

    assert head.startswith(b"HTTP/1.1 101")
    assert sock.recv(100) == b"HELLO"
    connection.close()

    declined = served.get(headers={"Upgrade": "other", "Connection": "Upgrade"})
    assert (declined.status_code, declined.text) == (426, "no")
