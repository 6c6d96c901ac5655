"""Fission's Python environment: direct run, specialisation, headers, asynchronous invocation."""

import json

FLASK = """
from flask import request, current_app

def main():
    if request.args.get("fail"):
        raise ValueError("no")
    if request.args.get("none"):
        return None
    found = {k: v for k, v in request.headers.items() if k.startswith("X-Fission")}
    return {"method": request.method, "path": request.path, "body": request.get_data(as_text=True),
            "app": current_app.name, "headers": found}, 201
"""


def test_main_with_flasks_request_is_served_as_the_environment_does(serve):
    served = serve({"main.py": FLASK}, clients=True)

    answer = served.post("/a/b?x=1", content=b"hi")
    assert answer.status_code == 201
    found = answer.json()
    assert (found["method"], found["path"], found["body"]) == ("POST", "/a/b", "hi")
    headers = found["headers"]
    assert headers["X-Fission-Function-Name"] and headers["X-Fission-Function-Uid"]
    assert headers["X-Fission-Function-Namespace"] == "default"
    assert headers["X-Fission-Full-Url"] == "/a/b?x=1"
    assert headers["X-Fission-Request-Id"]
    assert served.get("/healthz").status_code == 200
    assert served.request("PATCH").status_code == 405
    failed = served.get("/?fail=1")
    assert failed.status_code == 500 and "Internal Server Error" in failed.text
    assert served.get("/?none=1").status_code == 500
    assert 'main.py", line 6, in main' in served.output
    # Nobody can replace a function that is there.
    for path in ("/specialize", "/v2/specialize"):
        refused = served.post(path, json={"filepath": "/etc", "functionName": "x.y"})
        assert (refused.status_code, refused.text) == (400, "Not a generic container")
    assert served.get("/").status_code == 201


def test_environment_without_code_takes_it_by_v2_specialize(serve, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "user.py").write_text("def handle():\n    return 'handled'\n")
    served = serve(
        {"README": "no code here"}, "--convention", "fission", env={"USERFUNCVOL": str(tmp_path / "code")}
    )

    generic = served.get("/")
    assert generic.status_code == 500 and "Generic container" in generic.text
    assert served.post("/v2/specialize", content=b"{").status_code == 400
    assert served.post("/v2/specialize", json={"filepath": "/nowhere"}).status_code == 404
    asked = {"filepath": str(tmp_path / "code"), "functionName": "user.handle"}
    answer = served.post("/v2/specialize", json=asked)
    assert (answer.status_code, answer.content) == (200, b"")
    assert served.get("/").text == "handled"
    assert served.post("/v2/specialize", json=asked).status_code == 400
    assert json.loads((tmp_path / "code" / "state.json").read_text()) == asked
    served.stop()

    again = serve(
        {"README": "no code here"}, "--convention", "fission", env={"USERFUNCVOL": str(tmp_path / "code")}
    )
    assert again.get("/").text == "handled"


def test_version_1_specializes_the_file_user(serve, tmp_path):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "user").write_text("def main():\n    return 'one'\n")
    served = serve(
        {"README": "no code here"}, "--convention", "fission", env={"USERFUNCVOL": str(tmp_path / "code")}
    )

    assert served.post("/specialize").status_code == 200
    assert served.get("/").text == "one"


SPEC = """
apiVersion: fission.io/v1
kind: Environment
metadata: {name: python}
spec: {version: 3, runtime: {image: fission/python-env}}
---
apiVersion: fission.io/v1
kind: Function
metadata: {name: items}
spec: {package: {functionName: store.read}, functionTimeout: 1}
---
apiVersion: fission.io/v1
kind: HTTPTrigger
metadata: {name: items}
spec: {relativeurl: "/items/{id:[0-9]+}", functionref: {type: name, name: items}}
---
apiVersion: fission.io/v1
kind: TimeTrigger
metadata: {name: hourly}
spec: {cron: "@every 1h", functionref: {type: name, name: items}}
"""
ASYNC = """
from fastapi.responses import JSONResponse
import asyncio

async def read(request):
    if request.url.path == "/slow":
        await asyncio.sleep(60)
    return JSONResponse({"id": request.headers.get("x-fission-params-id")}, status_code=203)
"""


def test_yaml_names_the_function_its_limit_and_its_variables(serve):
    served = serve({"specs/all.yaml": SPEC, "store.py": ASYNC}, clients=True)

    answer = served.get("/items/42")
    assert (answer.status_code, answer.json()) == (203, {"id": "42"})
    late = served.get("/slow")
    assert late.status_code == 504
    assert late.headers["x-fission-component"] == "router"
    assert late.json()["reason"] == "timeout" and late.json()["requestId"]


def test_flask_function_in_a_directory_with_other_names(serve):
    served = serve(
        {"user.py": "def hello():\n    return 'hello'\n"}, "--convention", "fission", "--target", "user.hello"
    )
    assert served.get("/").text == "hello"
