"""Every row of the contract's detection table (section 11), alone and against the others."""

import json
import os

import pytest

from pelton.builders.detect import Wanted, detect, examine
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.errors import UnknownConventionError

ALL = {name: resolve_convention(name) for name in CONVENTIONS}

FUNC_YAML = "specVersion: 0.36.0\nname: f\nruntime: python\n"
HOST = {"version": "2.0"}
CUSTOM = {"version": "2.0", "customHandler": {"description": {"defaultExecutablePath": "server"}}}
FUNCTION_APP = "import azure.functions as func\napp = func.FunctionApp()\n"
FUNCTION_JSON = {
    "bindings": [{"type": "timerTrigger", "direction": "in", "name": "t", "schedule": "0 * * * * *"}]
}
SAM = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Orders:
    Type: AWS::Serverless::Function
    Properties: {Handler: app.run, Runtime: python3.12, CodeUri: ., Role: !GetAtt R.Arn}
"""
CLOUDFORMATION = """
Resources:
  Orders:
    Type: AWS::Lambda::Function
    Properties: {Handler: app.run, Runtime: python3.12}
"""
SERVERLESS = "provider: {name: aws, runtime: python3.12}\nfunctions:\n  orders: {handler: app.run}\n"
FISSION = "apiVersion: fission.io/v1\nkind: Function\nmetadata: {name: f}\nspec: {package: {functionName: app.run}}\n"  # noqa: E501
KUBELESS = "apiVersion: kubeless.io/v1beta1\nkind: Function\nmetadata: {name: f}\nspec: {handler: app.run}\n"
NUCLIO = "apiVersion: nuclio.io/v1beta1\nkind: NuclioFunction\nmetadata: {name: f}\n"
OPENFAAS = "provider: {name: openfaas}\nfunctions: {f: {lang: python3, handler: ./f}}\n"
WSK = "packages:\n  shop:\n    actions:\n      read: {function: app.py, runtime: python}\n"
APP = {"app.py": "def run(*args): ...\ndef main(args): ...\n"}
USER_CONTEXT = "from functions_framework.context.user_context import UserContext\n"
FLASK_MAIN = "from flask import request\ndef main():\n    return request.path\n"

ROWS = {
    "1 func.yaml": ({"func.yaml": FUNC_YAML, "function/func.py": "def new(): ...\n"}, "knative-func"),
    "2 host.json and FunctionApp(": ({"host.json": HOST, "function_app.py": FUNCTION_APP}, "azure"),
    "3 customHandler": ({"host.json": CUSTOM}, "azure"),
    "4 function.json": ({"tick/function.json": FUNCTION_JSON, "tick/__init__.py": "def main(t): ...\n"}, "azure"),  # noqa: E501
    "5 SAM": ({"template.yaml": SAM, **APP}, "lambda"),
    "5 CloudFormation": ({"template.yml": CLOUDFORMATION, **APP}, "lambda"),
    "5 serverless.yml": ({"serverless.yml": SERVERLESS, **APP}, "lambda"),
    "6 fission.io": ({"specs/f.yaml": FISSION, **APP}, "fission"),
    "7 kubeless.io": ({"f.yaml": KUBELESS, **APP}, "kubeless"),
    "10 wskdeploy": ({"manifest.yaml": WSK, **APP}, "openwhisk"),
    "10 __main__.py": ({"__main__.py": "def main(args):\n    return args\n"}, "openwhisk"),
    "openfunction": ({"main.py": USER_CONTEXT + "def f(context: UserContext): ...\n"}, "openfunction"),
    "asgi": ({"main.py": "from fastapi import FastAPI\napp = FastAPI()\n"}, "asgi"),
    "wsgi": ({"main.py": "from flask import Flask\napp = Flask(__name__)\n"}, "wsgi"),
    "11 decorator": (
        {"app.py": "import functions_framework\n@functions_framework.http\ndef f(x): ...\n"},
        "gcf",
    ),
    "11 main.py (request)": ({"main.py": "def f(request): ...\n"}, "gcf"),
    "11 main.py (data, context)": ({"main.py": "def f(data, context): ...\n"}, "gcf"),
    "12 lambda_handler": ({"app.py": "def lambda_handler(event, context): ...\n"}, "lambda"),
    "12 lambda_function.py": ({"lambda_function.py": "def go(event, context): ...\n"}, "lambda"),
    "12 event['data']": ({"app.py": "def go(event, context):\n    return event['data']\n"}, "kubeless"),
    "12 event['extensions']": (
        {"app.py": "def go(event, context):\n    return event['extensions']['request']\n"},
        "kubeless",
    ),
    "13 main() with flask": ({"app.py": FLASK_MAIN}, "fission"),
    "15 bootstrap": ({"bootstrap": "#!/bin/sh\n"}, "lambda"),
}  # fmt: skip

TIES = {
    "markers of two platforms": ({"func.yaml": FUNC_YAML, "template.yaml": SAM, "function/func.py": "def new(): ...\n", **APP}, {"knative-func", "lambda"}),  # noqa: E501
    "azure and openwhisk": ({"host.json": HOST, "function_app.py": FUNCTION_APP, "manifest.yaml": WSK, **APP}, {"azure", "openwhisk"}),  # noqa: E501
    "supported and unsupported markers": ({"stack.yml": OPENFAAS, "template.yaml": SAM, **APP}, {"openfaas", "lambda"}),  # noqa: E501
    "row 12 asks": ({"app.py": "def go(event, context): ...\n"}, {"lambda", "kubeless"}),
    "rows 11 and 12": ({"main.py": "def handler(event, context): ...\n"}, {"gcf", "lambda"}),
    "row 12 both": ({"app.py": "def handler(event, context):\n    return event['data']\n"}, {"lambda", "kubeless"}),  # noqa: E501
    "rows 9 and 12": ({"handler.py": "def handle(event, context): ...\n"}, {"openfaas", "lambda", "kubeless"}),  # noqa: E501
    "openfunction and wsgi": ({"main.py": USER_CONTEXT + "from flask import Flask\napp = Flask('x')\ndef f(c: UserContext): ...\n"}, {"openfunction", "wsgi"}),  # noqa: E501
}  # fmt: skip

UNSUPPORTED = {
    "8 NuclioFunction": ({"function.yaml": NUCLIO}, "Nuclio"),
    "8 @nuclio.configure": ({"a.py": "# @nuclio.configure\n# function.yaml:\ndef h(c, e): ...\n"}, "Nuclio"),
    "9 stack.yml": ({"stack.yml": OPENFAAS, "f/handler.py": "def handle(req): ...\n"}, "OpenFaaS"),
    "9 handler.py": ({"handler.py": "def handle(req): ...\n"}, "OpenFaaS"),
    "14 (context, event)": ({"a.py": "def h(context, event): ...\n"}, "Nuclio"),
}  # fmt: skip

DECIDED = {
    "a marker beats looks": ({"template.yaml": SAM, "main.py": "def f(request): ...\n", **APP}, "lambda"),
    "an object beats looks": ({"main.py": "from flask import Flask\napp = Flask('x')\ndef f(request): ...\n"}, "wsgi"),  # noqa: E501
    "an own import decides": (
        {"main.py": "from aws_lambda_powertools import Logger\ndef handler(event, context): ...\n"},
        "lambda",
    ),
    "google's own import decides": (
        {"main.py": "import functions_framework\ndef hello(event, context): ...\n"},
        "gcf",
    ),
}  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    def write(files):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
            if name == "bootstrap":
                os.chmod(path, 0o755)
        return tmp_path

    return write


@pytest.mark.parametrize("row", ROWS)
def test_row_alone_names_its_convention(tree, row):
    files, convention = ROWS[row]

    report = examine(tree(files), ALL)

    assert report.error is None, report.error
    assert report.detected is not None and report.detected.convention == convention
    chosen = [item for item in report.considered if item.verdict == "chosen"]
    assert [item.convention for item in chosen] == [convention]
    assert {item.convention for item in report.considered} >= {*ALL, "openfaas", "nuclio"}


@pytest.mark.parametrize("case", TIES)
def test_tie_lists_the_candidates_and_the_flag(tree, case):
    files, conventions = TIES[case]

    report = examine(tree(files), ALL)

    assert isinstance(report.error, UnknownConventionError)
    assert "--convention" in report.error.hint
    assert {item.convention for item in report.considered if item.verdict == "candidate"} == conventions


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_platform_that_is_not_supported_is_named(tree, case):
    files, title = UNSUPPORTED[case]

    with pytest.raises(UnknownConventionError, match=f"{title}, which is not supported"):
        detect(tree(files), ALL)


@pytest.mark.parametrize("case", DECIDED)
def test_stronger_signs_decide(tree, case):
    files, convention = DECIDED[case]

    assert detect(tree(files), ALL).convention == convention


@pytest.mark.parametrize("case", TIES)
def test_explicit_convention_settles_every_tie(tree, case):
    files, conventions = TIES[case]
    folder = tree(files)

    for convention in conventions - {"openfaas"}:
        assert detect(folder, ALL, Wanted(convention=convention)).convention == convention


def test_file_without_the_executable_bit_is_no_bootstrap(tmp_path):
    (tmp_path / "bootstrap").write_text("#!/bin/sh\n")

    with pytest.raises(UnknownConventionError):
        detect(tmp_path, ALL)


def test_broken_and_hostile_files_are_no_markers(tree):
    files = {
        "func.yaml": "specVersion: [\n",
        "template.yaml": "a: &a [*a]\n",
        "host.json": "{",
        "x/function.json": "[]",
        "manifest.yaml": "packages: 7\n",
        "serverless.yml": "- 1\n",
        "deep.yaml": "fission.io/ " + "[" * 5000,
        "main.py": "def f(request): ...\n",
    }

    assert detect(tree(files), ALL).convention == "gcf"
