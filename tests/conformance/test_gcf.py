"""Google's functions with their real packages, served by `pelton run` as their users run them."""

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

HTTP = """
import time
import flask
import functions_framework
from flask import current_app, jsonify, abort, render_template

import_time_app = current_app.name

@functions_framework.errorhandler(ZeroDivisionError)
def on_zero(error):
    return flask.jsonify(handled=str(error)), 422

@functions_framework.http
def hello(request: flask.Request):
    if request.path == "/kind":
        return {
            "flask": isinstance(request, flask.Request),
            "current": flask.request.path,
            "framework": hasattr(functions_framework, "create_app"),
            "method": request.method,
            "view": request.view_args,
            "app": import_time_app,
            "id": request.headers["Function-Execution-Id"],
        }
    if request.path == "/zero":
        return str(1 // 0)
    if request.path == "/crash":
        raise KeyError("secret")
    if request.path == "/abort":
        abort(409, "taken")
    if request.path == "/page":
        return render_template("page.html", name="Ada")
    if request.path == "/tuple":
        return "made", 201, {"x-own": "1"}
    if request.path == "/json":
        return jsonify(request.get_json())
    if request.path == "/slow":
        time.sleep(1)
    return "hello"
"""


def test_http_function_runs_in_a_real_flask(serve):
    served = serve({"main.py": HTTP, "templates/page.html": "<p>{{ name }}</p>"}, clients=True)
    kind = served.request("PUT", "/kind").json()
    answers = {path: served.get(path) for path in ("/zero", "/crash", "/abort", "/page", "/tuple")}

    assert len(kind.pop("id")) == 12
    assert kind == {
        "flask": True,
        "current": "/kind",
        "framework": True,
        "method": "PUT",
        "view": {"path": "kind"},
        "app": "main",
    }
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/zero": 422,
        "/crash": 500,
        "/abort": 409,
        "/page": 200,
        "/tuple": 201,
    }
    assert answers["/zero"].json() == {"handled": "integer division or modulo by zero"}
    assert answers["/crash"].headers["x-google-status"] == "crash"
    assert "secret" not in answers["/crash"].text
    assert "x-google-status" not in answers["/abort"].headers
    assert answers["/page"].text == "<p>Ada</p>"
    assert answers["/tuple"].headers["x-own"] == "1"
    assert served.post("/json", content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert [served.get(path).status_code for path in ("/robots.txt", "/favicon.ico")] == [404, 404]
    assert "KeyError: 'secret'" in served.output


def test_ten_parallel_slow_calls_take_no_longer_than_two(serve):
    served = serve({"main.py": HTTP}, clients=True)
    url = served.url
    with httpx.Client(base_url=url, timeout=30) as client:
        start = time.monotonic()
        client.get("/slow").raise_for_status()
        single = time.monotonic() - start
        gate = threading.Barrier(10)

        def ask(_):
            gate.wait(30)
            return client.get("/slow").status_code

        with ThreadPoolExecutor(10) as pool:
            start = time.monotonic()
            found = list(pool.map(ask, range(10)))
            together = time.monotonic() - start

    assert found == [200] * 10
    assert together < 2 * single


# As the conformance suite has it: each function writes what it got to a file in its working directory.
EVENTS = """
import json
import functions_framework
from cloudevents.http import CloudEvent, to_json
from google.cloud.functions.context import Context

def write(value):
    with open("function_output.json", "w") as file:
        json.dump(value, file)

@functions_framework.cloud_event
def write_cloud_event(cloud_event):
    assert isinstance(cloud_event, CloudEvent)
    write(json.loads(to_json(cloud_event)))

def write_legacy_event(data, context):
    assert isinstance(context, Context)
    write({"data": data, "context": {"eventId": context.event_id, "timestamp": context.timestamp,
                                     "eventType": context.event_type, "resource": context.resource}})
"""
LEGACY = {
    "context": {
        "eventId": "aaaaaa-1111-bbbb-2222-cccccccccccc",
        "timestamp": "2020-09-29T11:32:00.123Z",
        "eventType": "providers/firebase.auth/eventTypes/user.create",
        "resource": "projects/my-project-id",
    },
    "data": {"uid": "UUpby3s4spZre6kHsgVSPetzQ8l2", "metadata": {"createdAt": "2020-05-26T10:42:27Z"}},
}
NEW = {
    "specversion": "1.0",
    "id": "aaaaaa-1111-bbbb-2222-cccccccccccc",
    "type": "google.firebase.auth.user.v1.created",
    "source": "//firebaseauth.googleapis.com/projects/my-project-id",
    "subject": "users/UUpby3s4spZre6kHsgVSPetzQ8l2",
    "time": "2020-09-29T11:32:00.123Z",
    "datacontenttype": "application/json",
    "data": {"uid": "UUpby3s4spZre6kHsgVSPetzQ8l2", "metadata": {"createTime": "2020-05-26T10:42:27Z"}},
}


def binary(event):
    headers = {
        f"ce-{name}": value for name, value in event.items() if name not in {"data", "datacontenttype"}
    }
    return {"content": json.dumps(event["data"]), "headers": {**headers, "content-type": "application/json"}}


def structured(event):
    return {"content": json.dumps(event), "headers": {"content-type": "application/cloudevents+json"}}


def output(folder):
    return json.loads((folder / "function_output.json").read_text())


def test_cloudevent_function_gets_every_form_as_the_sdks_event(serve, tmp_path):
    served = serve({"main.py": EVENTS}, "--target", "write_cloud_event", clients=True)
    folder = tmp_path / "function-0"
    found = []
    for request in (binary(NEW), structured(NEW), {"json": LEGACY}):
        answer = served.post("/any", **request)
        found.append((answer.status_code, answer.text, output(folder)))
    lacking = {name: value for name, value in NEW.items() if name != "id"}

    assert found == [(200, "OK", NEW)] * 3
    assert [served.post(**form(lacking)).status_code for form in (binary, structured)] == [400, 400]
    assert served.get("/").status_code == 405
    odd = binary(NEW)
    odd["headers"]["ce-subject"] = "%zz%E2%82"
    assert served.post("/", **odd).status_code == 200


def test_background_function_gets_both_kinds_of_events(serve, tmp_path):
    served = serve({"main.py": EVENTS}, "--target", "write_legacy_event", clients=True)
    folder = tmp_path / "function-0"
    served.post("/", json=LEGACY).raise_for_status()
    as_it_is = output(folder)
    served.post("/", **binary(NEW)).raise_for_status()
    converted = output(folder)
    push = {"subscription": "s", "message": {"data": base64.b64encode(b"hi").decode(), "messageId": "1"}}
    served.post("/projects/p/topics/t", json=push).raise_for_status()

    assert as_it_is == LEGACY
    assert converted == LEGACY
    assert output(folder)["context"]["resource"]["name"] == "projects/p/topics/t"
    assert (served.get("/").status_code, served.get("/").text) == (200, "")
    assert (served.get("/x").status_code, served.post("/", json={}).status_code) == (405, 400)


TYPED = """
import functions_framework

class Request:
    def __init__(self, message):
        self.message = message

    @staticmethod
    def from_dict(values):
        return Request(values["message"])

class Response:
    def __init__(self, request):
        self.request = request

    def to_dict(self):
        return {"payload": {"message": self.request.message}}

@functions_framework.typed
def declare(request: Request):
    return Response(request) if request.message else None
"""


def test_typed_function_of_the_real_decorator(serve):
    served = serve({"main.py": TYPED}, clients=True)
    empty = served.post("/", json={"message": ""})

    assert served.post("/", json={"message": "hi"}).json() == {"payload": {"message": "hi"}}
    assert (empty.status_code, empty.content) == (200, b"")
    failed = served.post("/", json={})
    assert (failed.status_code, failed.headers["x-google-status"]) == (500, "crash")
    assert served.get("/").status_code == 405


ASGI = """
import functions_framework.aio
from starlette.requests import Request
from starlette.responses import StreamingResponse

@functions_framework.aio.http
async def hello(request: Request):
    assert type(request) is Request
    if request.url.path == "/stream":
        async def parts():
            for n in range(3):
                yield f"{n},"
        return StreamingResponse(parts())
    if request.url.path == "/none":
        return None
    if request.url.path == "/crash":
        raise ValueError("secret")
    print("seen")
    return {"body": (await request.body()).decode()}, 202
"""


def test_asgi_function_of_the_real_decorator(serve):
    served = serve({"main.py": ASGI}, clients=True, env={"LOG_EXECUTION_ID": "true"})
    answer = served.post("/", content=b"x", headers={"Function-Execution-Id": "mine"})
    crash = served.get("/crash")

    assert (answer.status_code, answer.json()) == (202, {"body": "x"})
    assert served.get("/stream").text == "0,1,2,"
    assert served.get("/none").status_code == 500
    assert (crash.status_code, crash.headers["x-google-status"]) == (500, "crash")
    assert "secret" not in crash.text
    line = json.loads(served.wait_for(r"^\{.*seen.*\}$")[0])
    assert line["logging.googleapis.com/labels"] == {"execution_id": "mine"}


LIGHT = """
import functions_framework

@functions_framework.http
def hello(request):
    return {"kind": type(request).__module__, "real": hasattr(functions_framework, "create_app")}
"""
HELPER = """
from flask import request

def path():
    return request.path
"""


def test_code_that_names_only_the_framework_pays_for_no_flask_request(serve):
    light = serve({"main.py": LIGHT}, clients=True)
    helped = serve(
        {
            "main.py": LIGHT.replace('"kind":', '"path": helper.path(), "kind":') + "import helper",
            "helper.py": HELPER,
        },
        clients=True,
    )

    assert light.get("/").json() == {"kind": "pelton.compat.gcf.http", "real": True}
    assert helped.get("/p").json() == {"path": "/p", "kind": "flask.wrappers", "real": True}


OPENFUNCTION = """
from functions_framework.context.user_context import UserContext
from functions_framework.openfunction.function_out import FunctionOut
import functions_framework

def hello(context: UserContext):
    assert isinstance(context, UserContext) and isinstance(context.out, FunctionOut)
    return {"real": hasattr(functions_framework, "create_app")}
"""


def test_openfunction_code_runs_beside_googles_package(serve):
    assert serve({"main.py": OPENFUNCTION}, clients=True).get("/").json() == {"real": True}


def test_target_that_is_no_function_ends_with_the_names_that_are(serve):
    served = serve(
        {"main.py": "class Thing:\n    pass\n\ndef helper(request):\n    return ''\n"},
        *("--target", "Thing", "--convention", "gcf"),
    )
    served.wait_for("helper")

    assert served.process.wait(20) != 0
    assert "Traceback" not in served.output
