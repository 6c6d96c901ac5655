import json
from pathlib import Path

import pytest

from pelton.builders import detect
from pelton.builders.tree import SourceTree
from pelton.cli.tables import CONVENTIONS, resolve_convention
from pelton.compat import azure
from pelton.compat.azure.found import PACKAGE
from pelton.errors import SourceError, UnknownConventionError
from pelton.model.convention import Trigger

APP = """
import azure.functions as func
from other import bp
app = func.FunctionApp()
app.register_functions(bp)

@app.route(route="items/{id}")
def item(req): ...

@app.route()
def plain(req): ...

@app.function_name(name="nightly")
@app.timer_trigger(arg_name="t", schedule="0 0 3 * * *")
def at_night(t): ...

@app.schedule(arg_name="t", schedule="%WHEN%")
def set_by_setting(t): ...

@app.schedule(arg_name="t", schedule="%UNKNOWN%")
def unknown(t): ...

@app.queue_trigger("msg", "orders-%STAGE%", "c")
@app.queue_output(arg_name="out", queue_name="x", connection="c")
def on_order(msg, out): ...

@app.event_hub_message_trigger("e", "c", "hub")
async def on_hub(e): ...

@app.generic_trigger(arg_name="x", type="kafkaTrigger", topic="generic")
def on_generic(x): ...

@app.blob_trigger(arg_name="b", path="c/{name}", connection="c")
def on_blob(b): ...
"""
OTHER = """
import azure.functions as func
bp = func.Blueprint()

@bp.kafka_trigger(arg_name="k", topic="clicks", broker_list="b")
def on_click(k): ...
"""
MODULES = {name: resolve_convention(name) for name in CONVENTIONS}


@pytest.fixture
def tree(tmp_path):
    def make(files, **more):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return SourceTree(tmp_path, **more)

    return make


def test_v2_app_is_one_function_with_the_triggers_of_its_decorators(tree):
    files = {
        "function_app.py": APP,
        "other.py": OTHER,
        "host.json": {"functionTimeout": "00:10:00"},
        "local.settings.json": {"Values": {"STAGE": "test", "WHEN": "*/15 * * * *"}},
    }

    (match,) = azure.detect(tree(files))

    assert (match.target, match.signature, match.row, match.source) == ("", "v2", "2", "function_app.py")
    assert match.options == {"request-timeout": "600s"}
    assert match.implied == (PACKAGE,)
    assert set(match.triggers) == {
        Trigger(kind="http", value="/api/items/{id}", name="item"),
        Trigger(kind="http", value="/api/plain", name="plain"),
        Trigger(kind="cron", value="0 0 3 * * *", name="nightly"),
        Trigger(kind="cron", value="0 */15 * * * *", name="set_by_setting"),
        Trigger(kind="cron", value="%UNKNOWN%", name="unknown"),
        Trigger(kind="topic", value="orders-test", name="on_order"),
        Trigger(kind="topic", value="hub", name="on_hub"),
        Trigger(kind="topic", value="generic", name="on_generic"),
        Trigger(kind="topic", value="clicks", name="on_click"),
    }


def test_target_narrows_the_app_to_one_function(tree):
    files = {"function_app.py": APP, "host.json": {}}

    (match,) = azure.detect(tree(files, target="nightly"))

    assert (match.target, [item.name for item in match.triggers]) == ("nightly", ["nightly"])
    assert azure.detect(tree({}, target="none")) == ()
    assert [item.target for item in azure.detect(tree({}, target="made", asked="azure"))] == ["made"]


def test_v1_folders_are_one_function(tree):
    http = {"bindings": [{"type": "httpTrigger", "name": "req"}, {"type": "http", "name": "$return"}]}
    queue = {"bindings": [{"type": "queueTrigger", "name": "m", "queueName": "q"}]}
    timer = {"bindings": [{"type": "timerTrigger", "name": "t", "schedule": "0 0 * * * *"}]}
    files = {
        "A/function.json": http,
        "B/function.json": queue,
        "C/function.json": timer,
        "D/function.json": {"no": "bindings"},
        "A/__init__.py": "",
        "host.json": {"extensions": {"http": {"routePrefix": ""}}},
    }

    (match,) = azure.detect(tree(files))

    assert (match.signature, match.row, match.source, match.rule) == (
        "v1",
        "4",
        "",
        "function.json with bindings in A, B, C",
    )
    assert match.triggers == (
        Trigger(kind="http", value="/A", name="A"),
        Trigger(kind="topic", value="q", name="B"),
        Trigger(kind="cron", value="0 0 * * * *", name="C"),
    )


def test_custom_handler_implies_no_library_and_wins_over_its_folders(tree):
    files = {
        "host.json": {"customHandler": {"description": {"defaultExecutablePath": "handler"}}},
        "A/function.json": {"bindings": [{"type": "queueTrigger", "name": "m", "queueName": "q"}]},
    }

    (match,) = azure.detect(tree(files))

    assert (match.signature, match.row, match.implied) == ("custom-handler", "3", ())


def test_asgi_app_is_one_http_function(tree):
    text = "import azure.functions as func\napp = func.AsgiFunctionApp(app=api)\n"

    (match,) = azure.detect(tree({"function_app.py": text, "host.json": {}}))

    assert match.triggers == (Trigger(kind="http", value="/api/{*route}", name="http_app_func"),)


def test_without_host_json_only_who_asks_gets_the_app(tree):
    assert azure.detect(tree({"function_app.py": APP})) == ()
    assert len(azure.detect(tree({}, asked="azure"))) == 1


def test_app_beside_another_platforms_marker_is_a_tie(tree, tmp_path):
    tree(
        {
            "function_app.py": APP,
            "host.json": {},
            "template.yaml": "Transform: AWS::Serverless-2016-10-31\nResources:\n  F:\n    Type: "
            "AWS::Serverless::Function\n    Properties: {Handler: function_app.item, Runtime: python3.11}\n",
        }
    )

    with pytest.raises(UnknownConventionError, match="2 conventions fit"):
        detect.detect(tmp_path, MODULES)
    assert detect.detect(tmp_path, MODULES, convention="azure").implied == (PACKAGE,)


def test_detection_reports_a_target_that_is_not_in_the_app(tree, tmp_path):
    tree({"function_app.py": APP, "host.json": {}})

    with pytest.raises((SourceError, UnknownConventionError)):
        detect.detect(Path(tmp_path), MODULES, detect.Wanted(target="nothing"))
