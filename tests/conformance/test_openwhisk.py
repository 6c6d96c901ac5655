"""OpenWhisk actions behind `pelton run`, asked as the platform's own suite asks a runtime container.

Source of the cases: apache/openwhisk, BasicActionRunnerTests; apache/openwhisk-runtime-python (zip and
virtualenv).
"""

import base64
import io
import zipfile

import pytest

SENTINEL = "XXX_THE_END_OF_A_WHISK_ACTIVATION_XXX"
BLANK = ("--convention", "openwhisk", "--annotation", "init=true")
ECHO = """
import sys
def main(args):
    print("hello stdout")
    print("hello stderr", file=sys.stderr)
    return args
"""
ENV = """
import os
def main(args):
    return {
        "api_host": os.environ["__OW_API_HOST"],
        "api_key": os.environ["__OW_API_KEY"],
        "namespace": os.environ["__OW_NAMESPACE"],
        "action_name": os.environ["__OW_ACTION_NAME"],
        "action_version": os.environ["__OW_ACTION_VERSION"],
        "activation_id": os.environ["__OW_ACTIVATION_ID"],
        "deadline": os.environ["__OW_DEADLINE"],
    }
"""


@pytest.fixture
def runtime(serve):
    """A blank runtime as a container would be one."""
    return lambda **more: serve({"README.md": "nothing here"}, *BLANK, **more)


def zipped(files):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return base64.b64encode(made.getvalue()).decode()


def init(served, code, main="main", **more):
    return served.post("/init", json={"value": {"name": "n", "main": main, "code": code, **more}})


def run(served, value, **context):
    return served.post("/run", json={"value": value, **context})


def outcome(reply):
    return reply.status_code, reply.json()


def test_runtime_container_protocol(runtime):
    served = runtime()

    assert outcome(run(served, {})) == (500, {"error": "no action defined yet"})
    assert outcome(init(served, "")) == (403, {"error": "Missing main/no code to execute."})
    assert outcome(served.post("/init", json={})) == (403, {"error": "Missing main/no code to execute."})
    assert served.post("/init", content=b"{").status_code == 400
    assert init(served, "###", binary=True).status_code == 400
    assert outcome(init(served, ECHO, main="niam")) == (
        502,
        {"error": "Cannot start action. Check logs for details."},
    )
    served.wait_for("cannot import name 'niam'")
    assert outcome(init(served, ECHO)) == (200, {"ok": True})
    assert outcome(init(served, ECHO)) == (403, {"error": "Cannot initialize the action more than once."})
    served.wait_for("Cannot initialize the action more than once.")
    values = [
        {"string": "hello"},
        {"string": "❄ ☃ ❄"},
        {"numbers": [42, 1]},
        {"object": {"a": "A"}},
        {"arg": "a" * 1_048_561},
        [{"a": 1}, 2],
    ]
    for value in values:
        assert outcome(run(served, value)) == (200, value)
    assert served.post("/run", content=b"{").status_code == 400

    assert served.stop() == 0
    assert served.output.count("hello stdout") == served.output.count("hello stderr") == len(values)
    assert served.output.count(SENTINEL) == 2 * len(values) + 2


def test_unicode_in_source_parameters_log_and_result(runtime):
    served = runtime()
    code = """
def main(args):
    text = args["delimiter"] + " ☃ " + args["delimiter"]
    print(text)
    return {"winter": text}
"""

    init(served, code)

    assert run(served, {"delimiter": "❄"}).json() == {"winter": "❄ ☃ ❄"}
    served.wait_for("❄ ☃ ❄")


def test_context_and_environment(runtime):
    served = runtime(env={"__OW_API_HOST": "xyz"})
    values = {"ARRAY": ["a"], "OBJECT": {"a": "A"}, "STRING": "xyz", "NUMBER": 3, "BOOL": True, "NULL": None}
    before = f"import os\nBEFORE = {{k: os.environ[k] for k in {list(values)}}}\n"

    assert init(served, before + ENV.replace("return {", "return {**BEFORE,"), env=values).status_code == 200
    context = {
        "api_key": "abc",
        "namespace": "zzz",
        "action_name": "xxx",
        "action_version": "0.0.2",
        "activation_id": "iii",
        "deadline": "123",
    }
    assert run(served, {}, **context).json() == {
        "ARRAY": '["a"]',
        "OBJECT": '{"a": "A"}',
        "STRING": "xyz",
        "NUMBER": "3",
        "BOOL": "true",
        "NULL": "",
        "api_host": "xyz",
        **context,
    }


def test_entry_other_than_main_errors_and_no_dictionary(runtime):
    served = runtime()
    code = """
def niam(args):
    if args.get("raise"):
        raise ValueError("wrong")
    return "not a json object" if args.get("text") else args
"""

    init(served, code, main="niam")

    assert outcome(run(served, {"string": "hello"})) == (200, {"string": "hello"})
    assert outcome(run(served, {"text": True})) == (
        502,
        {"error": "The action did not return a dictionary or array."},
    )
    assert outcome(run(served, {"raise": True})) == (200, {"error": "wrong"})
    served.wait_for("ValueError: wrong")


def test_zip_with_helper_and_virtualenv(runtime):
    activate = """
import os, sys
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(__file__)), "lib"))
"""
    files = {
        "__main__.py": "import os, helper, packed\n"
        "def main(args):\n"
        "    return {'helper': helper.NAME, 'packed': packed.NAME, 'data': open('data.txt').read()}\n",
        "helper.py": "NAME = 'helper'\n",
        "data.txt": "here",
        "virtualenv/bin/activate_this.py": activate,
        "virtualenv/lib/packed.py": "NAME = 'packed'\n",
    }
    served = runtime()

    without = {name: text for name, text in files.items() if name != "__main__.py"}
    assert outcome(init(served, zipped(without), binary=True)) == (
        502,
        {"error": "The action failed to generate or locate a binary. See logs for details."},
    )
    served.wait_for("Zip file does not include __main__.py")
    damaged = {name: text for name, text in files.items() if "activate" not in name}
    assert init(served, zipped(damaged), binary=True).status_code == 502
    served.wait_for("Invalid virtualenv. Zip file does not include")
    needy = {"__main__.py": "import surely_not_installed\n", "requirements.txt": "surely-not-installed\n"}
    assert init(served, zipped(needy), binary=True).status_code == 502
    served.wait_for("requirements.txt is not installed")

    assert outcome(init(served, zipped(files), binary=True)) == (200, {"ok": True})
    assert run(served, {}).json() == {"helper": "helper", "packed": "packed", "data": "here"}


def test_action_that_ends_the_process_does_not_end_the_worker(serve):
    served = serve({"__main__.py": "import sys\ndef main(args):\n    sys.exit(1)\n"})

    assert outcome(run(served, {})) == (400, {"error": "command exited"})
    assert outcome(run(served, {})) == (400, {"error": "command exited"})
    assert outcome(init(served, ECHO))[0] == 403


def test_zip_in_the_source_is_the_action(serve):
    data = base64.b64decode(
        zipped(
            {
                "__main__.py": "import helper\ndef main(a):\n    return {'n': helper.N}\n",
                "helper.py": "N = 1\n",
            }
        )
    )
    served = serve({"action.zip": data})

    assert served.get("/").json() == {"n": 1}


def test_package_of_a_manifest_with_web_actions_and_sequence(serve):
    manifest = """
    packages:
      demo:
        inputs: {greeting: Hello}
        actions:
          hello:
            function: src/hello.py
            runtime: python:3
            web: true
            inputs: {place: here}
          upper: {function: upper, main: shout}
        sequences:
          loud: {actions: "hello, upper", web: true}
        triggers:
          tick: {feed: /whisk.system/alarms/alarm, inputs: {cron: "*/5 * * * *"}}
        rules:
          tock: {trigger: tick, action: loud}
    """
    served = serve(
        {
            "manifest.yaml": manifest,
            "src/hello.py": """
            def main(params):
                text = f"{params['greeting']} {params.get('name', 'you')} {params['place']}"
                return {"body": text, "headers": {"x-mine": ["1", "2"]}}
            """,
            "upper/__main__.py": "async def shout(params):\n    return {'body': params['body'].upper()}\n",
        }
    )

    reply = served.get("/api/v1/web/guest/demo/hello?name=Ann")
    assert (reply.text, reply.headers.get_list("x-mine")) == ("Hello Ann here", ["1", "2"])
    assert reply.headers["content-type"] == "text/html; charset=UTF-8"
    assert served.get("/api/v1/web/guest/demo/loud.text").text == "HELLO YOU HERE"
    assert served.get("/api/v1/web/guest/demo/upper").status_code == 404
    assert served.get("/api/v1/web/guest/demo/hello?place=x").status_code == 400
    assert served.get("/api/v1/web/guest/demo/hello?__ow_method=x").status_code == 400
    preflight = served.request("OPTIONS", "/api/v1/web/guest/demo/hello")
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, "*")
    assert served.request("HEAD", "/api/v1/web/guest/demo/hello").content == b""
    invoked = served.post(
        "/api/v1/namespaces/_/actions/demo/upper?blocking=true&result=true", json={"body": "a"}
    )
    assert outcome(invoked) == (200, {"body": "A"})
    accepted = served.post("/api/v1/namespaces/_/actions/demo/loud", json={"name": "Bo"})
    assert accepted.status_code == 202
    record = served.get(f"/api/v1/namespaces/_/activations/{accepted.json()['activationId']}").json()
    assert record["response"]["result"] == {"body": "HELLO BO HERE"}
    too_long = served.post("/hello", content=b"x" * 2_000_000)
    assert too_long.status_code == 413


def test_target_narrows_a_package_and_plain_functions_work_when_asked(serve):
    served = serve(
        {"main.py": "def main(params):\n    return {'a': params.get('a', 0)}\n"}, "--convention", "openwhisk"
    )

    assert served.post("/", json={"a": 1}).json() == {"a": 1}
    assert served.get("/?a=2").json() == {"a": "2"}
