import json
import sys

import pytest

from pelton.compat.azure.app import check, described, read_v1
from pelton.errors import FunctionLoadError

QUEUE = {"type": "queueTrigger", "direction": "in", "name": "msg", "queueName": "q"}
OUT = {"type": "queue", "direction": "out", "name": "out", "queueName": "q"}


@pytest.fixture
def app(tmp_path, monkeypatch):
    """Write a v1 app with one function and return its directory."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def make(*bindings, code="def main(msg):\n    pass\n", script="__init__.py", folder="My-Fn", **more):
        inside = tmp_path / folder
        inside.mkdir()
        (inside / "function.json").write_text(json.dumps({"bindings": bindings, **more}))
        (inside / script).write_text(code)
        return str(tmp_path)

    yield make
    for name in set(sys.modules) - modules:
        if name.startswith("__app__"):
            del sys.modules[name]


def test_function_is_imported_below_the_apps_package_and_knows_where_it_is(app):
    bundle = app(QUEUE, code="def main(msg, context):\n    return __name__\n", retry={"maxRetryCount": 2})

    (function,) = read_v1(bundle, {})
    check(function, "here")

    assert function.user is not None
    assert function.user(None, None) == "__app__.My-Fn"
    assert (function.name, function.directory) == ("My-Fn", f"{bundle}/My-Fn")
    assert (function.context, function.is_async, function.retry) == (True, False, {"maxRetryCount": 2})


def test_script_and_entry_point_are_those_that_function_json_names(app):
    bundle = app(QUEUE, code="async def go(msg: bytes):\n    return 1\n", script="work.py", entryPoint="go")

    (function,) = read_v1(bundle, {})
    check(function, "here")

    assert function.is_async
    assert (function.trigger.converter, function.trigger.wanted) == ("generic", bytes)


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ([QUEUE, {**QUEUE, "name": "b"}], "it has 2 triggers: msg .queueTrigger., b .queueTrigger."),
        ([OUT], "it has no trigger"),
        ([QUEUE, {**OUT, "direction": "inout"}], "binding 'out' has direction 'inout'"),
        ([QUEUE, {"type": "queue", "name": "$return", "direction": "in"}], "has to have direction out"),
        ([{"type": "queueTrigger"}], "lacks its type or name"),
        ([{"type": "activityTrigger", "name": "x"}], "Durable Functions, which are not supported"),
    ],
)
def test_bindings_that_azure_refuses_are_refused_with_the_function(app, bindings, message):
    with pytest.raises(FunctionLoadError, match=f"function 'My-Fn': .*{message}"):
        described(app(*bindings), {})


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def main(other): ...", "parameters without a binding: other"),
        ("def main(msg): ...", "bindings without a parameter: out"),
        ("def main(msg, out: str): ...", "'out' has direction out"),
        ("class Out: ...\ndef main(msg: Out, out): ...", "'msg' has direction in"),
    ],
)
def test_parameters_that_do_not_fit_the_bindings_are_refused(app, code, message):
    (function,) = read_v1(app(QUEUE, OUT, code=code), {})

    with pytest.raises(FunctionLoadError, match=message):
        check(function, "here")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"entryPoint": "none"}, r"there is no none\(\)"),
        ({"scriptFile": "none.py"}, "there is no script 'none.py'"),
        ({"scriptFile": "../../etc/passwd"}, "there is no script"),
    ],
)
def test_code_that_is_not_there_is_named(app, more, message):
    with pytest.raises(FunctionLoadError, match=message):
        read_v1(app(QUEUE, **more), {})


@pytest.mark.parametrize(
    ("disabled", "env", "left"),
    [
        (False, {}, 1),
        (True, {}, 0),
        ("SETTING", {"SETTING": "1"}, 0),
        ("SETTING", {}, 1),
        (False, {"AzureWebJobs.My-Fn.Disabled": "true"}, 0),
        (True, {"AzureWebJobs_My-Fn_Disabled": "0"}, 1),
    ],
)
def test_disabled_function_is_left_out(app, disabled, env, left):
    assert len(described(app(QUEUE, disabled=disabled), env)) == left
