"""Google's and OpenFunction's functions with a real Flask and a real CloudEvents SDK in their environment."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

from pelton.builders.environment import ensure
from pelton.compat import gcf

PROGRAM = """
import json, sys
from pelton.cli.tables import resolve_convention
from pelton.dataplane import loader
from pelton.model.desired import Workload
from pelton.model.invocation import Invocation
bundle, environment, name, target, requests = sys.argv[1:6]
convention = resolve_convention(name)
loader.enter_environment(environment, bundle)
function = loader.load(
    Workload(namespace="d", name="f", revision="r", bundle=bundle, target=target), convention, None, None
)
found = []
for method, path, headers, body in json.loads(requests):
    invocation = Invocation(
        id="1", method=method, target=path.encode(), body=body.encode(),
        headers=[(key.encode(), value.encode()) for key, value in headers],
    )
    try:
        reply = function.call(invocation)
    except Exception as exc:
        reply = function.on_error(exc)
    headers = {key.decode(): value.decode() for key, value in reply.headers}
    found.append([reply.status, headers, bytes(reply.body).decode()])
print(json.dumps(found))
"""

GCF = """
import functions_framework
import flask
from flask import request as current, jsonify, abort, after_this_request
from cloudevents.http import CloudEvent

@functions_framework.http
def hello(request: flask.Request):
    assert isinstance(request, flask.Request) and current.path == request.path
    if request.path == "/abort":
        abort(404)
    if request.path == "/boom":
        raise ValueError("boom")
    if request.path == "/none":
        return None
    if request.path == "/template":
        return flask.render_template("x.html", n=1)
    if request.path == "/after":
        @after_this_request
        def add(response):
            response.headers["x-after"] = "1"
            return response
        return "x"
    return jsonify(path=request.path, args=request.view_args, form=dict(request.form))

@functions_framework.cloud_event
def on(event):
    assert isinstance(event, CloudEvent), type(event)
    assert (event["type"], event.data) == ("t", {"a": 1})
"""

OPENFUNCTION = """
from functions_framework.context.user_context import UserContext

def hello(context: UserContext):
    request = context.get_http_request()
    import sys
    assert isinstance(request, sys.modules["fl" + "ask"].Request)
    return request.args["x"]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("envs")
    return asyncio.run(ensure("", tuple(gcf.IMPLIED.values()), envs_dir=folder)).site_packages


@pytest.fixture
def answers(tmp_path, environment):
    def run(source, convention, target, *requests):
        (tmp_path / "main.py").write_text(source)
        (tmp_path / "templates").mkdir(exist_ok=True)
        (tmp_path / "templates" / "x.html").write_text("<b>{{ n }}</b>")
        result = subprocess.run(
            [
                sys.executable,
                "-c",
                PROGRAM,
                str(tmp_path),
                environment,
                convention,
                target,
                json.dumps(requests),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.mark.connected
def test_flask_functions_run_in_their_contexts(answers):
    found = answers(
        GCF,
        "gcf",
        "hello",
        ("POST", "/a%20b", [("content-type", "application/x-www-form-urlencoded")], "k=v"),
        ("GET", "/abort", [], ""),
        ("GET", "/boom", [], ""),
        ("GET", "/none", [], ""),
        ("GET", "/template", [], ""),
        ("GET", "/after", [], ""),
    )

    assert json.loads(found[0][2]) == {"path": "/a b", "args": {"path": "a b"}, "form": {"k": "v"}}
    assert [item[0] for item in found] == [200, 404, 500, 500, 200, 200]
    assert found[2][1]["x-google-status"] == "crash"
    assert "x-google-status" not in found[1][1]
    assert found[4][2] == "<b>1</b>"
    assert found[5][1]["x-after"] == "1"


@pytest.mark.connected
def test_cloudevent_function_gets_the_sdks_event(answers):
    headers = [(f"ce-{name}", "t") for name in ("id", "source", "type")] + [("ce-specversion", "1.0")]

    found = answers(GCF, "gcf", "on", ("POST", "/", headers, '{"a": 1}'))

    assert (found[0][0], found[0][2]) == (200, "OK")


@pytest.mark.connected
def test_openfunction_gets_a_flask_request_where_flask_is_installed(answers):
    assert answers(OPENFUNCTION, "openfunction", "hello", ("GET", "/?x=1", [], ""))[0][2] == "1"
