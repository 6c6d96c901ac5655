"""Actions, sequences, conductors, events and the API, from Invocation to Reply."""

import base64
import json
import os
import sys

import pytest

from pelton.compat import openwhisk
from pelton.compat.openwhisk.activation import Outcome, Records
from pelton.compat.openwhisk.container import SENTINEL
from pelton.compat.openwhisk.detection import PACKAGE
from pelton.compat.openwhisk.manifest import encode, read
from pelton.errors import FunctionLoadError
from pelton.model.invocation import Delivered, Event, Invocation, LoadRequest

BASIC = b"Basic " + base64.b64encode(b"user:key")
SHOP = {
    "packages": {
        "shop": {
            "inputs": {"currency": "EUR"},
            "actions": {
                "triple": {
                    "code": "def main(p):\n    return {'value': p['value'] * 3}\n",
                    "runtime": "python",
                },
                "increment": {
                    "code": "def main(p):\n    return {'value': p['value'] + 1}\n",
                    "runtime": "python",
                },
                "echo": {"code": "def main(p):\n    return p\n", "runtime": "python"},
                "fail": {"code": "def main(p):\n    return {'error': 'no', 'x': 1}\n", "runtime": "python"},
                "page": {
                    "code": "def main(p):\n    return {'body': p['title'], 'headers': {'x-a': '1'}}\n",
                    "runtime": "python",
                    "web": True,
                    "inputs": {"title": "Home", "note": ""},
                },
                "locked": {
                    "code": "def main(p):\n    return {'user': p.get('__ow_user')}\n",
                    "runtime": "python",
                    "web": True,
                    "annotations": {"require-whisk-auth": True},
                },
                "secret": {
                    "code": "def main(p):\n    return {}\n",
                    "runtime": "python",
                    "web": True,
                    "annotations": {"require-whisk-auth": 4711},
                },
                "walk": {
                    "code": "def main(p):\n    step = p.pop('step', 0)\n"
                    "    names = ['triple', '/_/shop/increment']\n"
                    "    if step < 2:\n"
                    "        return {'action': names[step], 'params': p, 'state': {'step': step + 1}}\n"
                    "    return {'params': p}\n",
                    "runtime": "python",
                    "conductor": True,
                },
                "forever": {
                    "code": "def main(p):\n    return {'action': 'echo', 'params': p}\n",
                    "runtime": "python",
                    "conductor": True,
                },
                "astray": {
                    "code": "def main(p):\n    return {'action': p['to']}\n",
                    "runtime": "python",
                    "conductor": True,
                },
                "foreign": {"function": "x.js", "runtime": "nodejs:14"},
            },
            "sequences": {
                "both": {"actions": "triple, increment"},
                "stops": {"actions": "triple, fail, increment"},
                "loop": {"actions": "loop"},
                "gap": {"actions": "none"},
                "nested": {"actions": "both, walk"},
            },
            "triggers": {
                "nightly": {
                    "feed": "/whisk.system/alarms/alarm",
                    "inputs": {"cron": "0 3 * * *", "trigger_payload": {"value": 5, "x": 1}},
                },
                "news": {"feed": "/_/m/kafkaFeed", "inputs": {"topic": "news", "isJSONData": True}},
                "button": {"inputs": {"a": 1}},
            },
            "rules": {
                "r1": {"trigger": "nightly", "action": "both"},
                "r2": {"trigger": "nightly", "action": "echo"},
                "r3": {"trigger": "news", "action": "echo"},
                "r4": {"trigger": "button", "action": "echo"},
                "r5": {"trigger": "button", "action": "fail"},
            },
        }
    }
}


class Platform:
    """Keeps what is deferred."""

    def __init__(self):
        self.deferred = []
        self.ok = True

    def send(self, output):
        raise AssertionError("actions have no outputs")

    async def send_async(self, output):
        return self.send(output)

    async def defer(self, deferred):
        self.deferred.append(deferred)
        return Delivered(ok=self.ok, error="" if self.ok else "full")


@pytest.fixture
def platform():
    return Platform()


@pytest.fixture
def load(tmp_path, platform, monkeypatch):
    """Load a source text or a manifest as the worker does."""
    before, here = set(sys.modules), os.getcwd()
    monkeypatch.setattr(sys, "path", list(sys.path))
    environ = dict(os.environ)

    def run(source, *, target="", defer=True, files=None, **options):
        for name, text in (files or {}).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        place = str(tmp_path)
        if isinstance(source, str):
            (tmp_path / "__main__.py").write_text(source)
            place += "/__main__.py"
        elif source is not None:
            manifest = read(source)
            assert manifest is not None
            options[PACKAGE] = encode(manifest)
        request = LoadRequest(
            source=place,
            target=target,
            signature="",
            context={},
            send=platform.send,
            send_async=platform.send_async,
            defer=platform.defer if defer else None,
            bundle=str(tmp_path),
            name="shop" if source is SHOP else "hello",
            options={name.replace("_", "-"): value for name, value in options.items()},
        )
        return openwhisk.load(request)

    yield run
    os.chdir(here)
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
    for name in set(sys.modules) - before:
        if not name.startswith(("pelton", "hypothesis")):
            del sys.modules[name]


def ask(target="/", body=None, method="POST", headers=()):
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    found = [(b"content-type", b"application/json"), *headers] if data else list(headers)
    return Invocation(id="i-1", method=method, target=target.encode(), headers=found, body=data)


def answer(function, *args, **more):
    reply = function.call(ask(*args, **more))
    return reply.status, json.loads(reply.body) if reply.body else None


def invoke(function, name, params=None, query="blocking=true&result=true"):
    return answer(function, f"/api/v1/namespaces/_/actions/{name}?{query}", params or {})


ECHO = "def main(params):\n    return params\n"


# --- the function's own address ---


def test_plain_result_is_json_and_a_web_result_http(load):
    function = load(
        "def main(p):\n    return {'body': 'b', 'statusCode': 201} if p.get('web') else {'a': 1}\n"
    )

    assert answer(function) == (200, {"a": 1})
    reply = function.call(ask("/?web=1", method="GET"))
    assert (reply.status, reply.body) == (201, b"b")
    assert dict(reply.headers)[b"access-control-allow-origin"] == b"*"
    assert b"x-openwhisk-activation-id" not in dict(reply.headers)


def test_parameters_come_as_for_a_web_action(load):
    status, value = answer(load(ECHO), "/a%20b/c?x=1&y=", {"x": 2})

    assert status == 200
    assert (value["x"], value["y"], value["__ow_path"], value["__ow_method"]) == (2, "", "/a b/c", "post")


def test_exception_is_an_error_and_its_traceback_starts_at_the_action(load, capsys):
    reply = load("def main(p):\n    raise KeyError('x')\n").call(ask())

    assert (reply.status, reply.body) == (502, b'{"error":"\'x\'"}')
    assert len(dict(reply.headers)[b"x-openwhisk-activation-id"]) == 32
    text = capsys.readouterr().err
    assert "KeyError" in text and "package.py" not in text


def test_error_that_is_an_http_answer_is_one(load):
    function = load("def main(p):\n    return {'error': {'statusCode': 418, 'body': 'tea'}}\n")

    assert function.call(ask()).status == 418


@pytest.mark.parametrize(
    "value", ["None", "'text'", "3", "{1}", "{'a': {1}}", "float('nan')", "{'a': float('nan')}"]
)
def test_result_that_is_no_json_is_a_developer_error(load, value):
    status, _ = answer(load(f"def main(p):\n    return {value}\n"))

    assert status == 502


def test_exit_is_an_error_and_the_worker_stays(load):
    function = load("import sys\ndef main(p):\n    sys.exit(3)\n")

    assert answer(function) == (502, {"error": "command exited"})


def test_long_result_is_an_application_error(load):
    status, value = answer(load("def main(p):\n    return {'a': 'x' * 1_048_577}\n"))

    assert status == 502
    assert "exceeded the allowed length: 1048585 > 1048576 bytes." in value["error"]


def test_list_result_and_half_surrogates_are_sent(load):
    assert answer(load("def main(p):\n    return (1, '\\ud800')\n")) == (200, [1, "\ud800"])


def test_action_that_is_not_exported_gets_only_what_was_sent(load):
    function = load(ECHO, web_export="false")

    assert answer(function, "/?b=1", {"a": 1}) == (200, {"a": 1, "b": "1"})
    assert answer(function, "/", [1]) == (200, [1])
    form = ask("/", b"a=1", headers=[(b"content-type", b"application/x-www-form-urlencoded")])
    form.headers.reverse()
    assert json.loads(function.call(form).body) == {"a": "1"}
    assert answer(function, "/api/v1/web/guest/default/hello.json")[0] == 404


def test_default_parameters_are_fresh_for_each_activation(load):
    function = load("def main(p):\n    p['l'].append(1)\n    return {'n': len(p['l'])}\n", params='{"l": []}')

    assert answer(function) == answer(function) == (200, {"n": 1})


def test_preflight_is_answered_for_the_action_unless_it_wants_to(load):
    assert load(ECHO).call(ask(method="OPTIONS")).body == b""
    own = load("def main(p):\n    return {'body': 'mine'}\n", web_custom_options="true")
    reply = own.call(ask(method="OPTIONS"))
    assert reply.body == b"mine"
    assert b"access-control-allow-origin" not in dict(reply.headers)


def test_context_of_an_activation_is_in_the_environment(load):
    names = [
        "ACTIVATION_ID",
        "ACTION_NAME",
        "NAMESPACE",
        "DEADLINE",
        "TRANSACTION_ID",
        "API_HOST",
        "ACTION_VERSION",
    ]
    function = load(f"import os\ndef main(p):\n    return {{k: os.environ['__OW_' + k] for k in {names}}}\n")

    reply = function.call(ask("/api/v1/web/guest/default/hello.json"))
    value = json.loads(reply.body)

    assert value["ACTIVATION_ID"].encode() == dict(reply.headers)[b"x-openwhisk-activation-id"]
    assert (value["ACTION_NAME"], value["NAMESPACE"], value["TRANSACTION_ID"]) == (
        "/default/main",
        "default",
        "i-1",
    )
    assert value["DEADLINE"].isdigit()


def test_program_that_an_action_starts_has_the_context_of_its_activation(load):
    script = "import os; print(os.environ['__OW_ACTIVATION_ID'], end='')"
    function = load(
        f"import subprocess, sys\ndef main(p):\n    words = [sys.executable, '-c', {script!r}]\n"
        "    return {'id': subprocess.check_output(words, text=True)}\n"
    )

    for _ in range(2):
        reply = function.call(ask("/api/v1/web/guest/default/hello.json"))
        known = dict(reply.headers)[b"x-openwhisk-activation-id"].decode()
        assert json.loads(reply.body) == {"id": known}


async def test_coroutine_function_is_awaited(load):
    function = load(
        "async def main(p):\n    if p.get('x'):\n        raise ValueError('a')\n    return {'a': 1}\n"
    )

    assert function.sync is False
    assert json.loads((await function.call(ask())).body) == {"a": 1}
    assert json.loads((await function.call(ask("/?x=1"))).body) == {"error": "a"}


# --- packages ---


def test_actions_of_a_package_have_addresses_below_its_own(load):
    function = load(SHOP)

    assert (function.sync, function.signature, function.target) == (True, "action", "")
    assert answer(function, "/triple", {"value": 2}) == (200, {"value": 6})
    assert answer(function, "/shop/echo", {"a": 1}) == (200, {"a": 1, "currency": "EUR"})
    status, value = answer(function, "/")
    assert status == 404 and "/shop/triple" in value["error"]
    assert function.call(ask("/shop/page/x", method="GET")).body == b"Home"


def test_invocation_wins_over_action_and_action_over_package(load):
    assert invoke(load(SHOP), "shop/echo", {"currency": "USD"}) == (200, {"currency": "USD"})


def test_final_parameter_cannot_be_set_but_an_empty_one_can(load):
    function = load(SHOP)

    assert invoke(function, "page", {"title": "x"})[0] == 400
    assert answer(function, "/api/v1/web/guest/shop/page?title=x")[0] == 400
    assert answer(function, "/page?title=x")[0] == 400
    assert answer(function, "/run", {"value": {"title": "x"}, "action_name": "/_/shop/page"})[0] == 400
    assert invoke(function, "page", {"note": "x"})[0] == 200


def test_action_in_another_language_is_a_developer_error(load):
    status, value = invoke(load(SHOP), "foreign")

    assert status == 502 and "nodejs:14" in value["error"]


def test_target_narrows_to_one_action_with_its_components(load):
    function = load(SHOP, target="both")

    assert (function.signature, function.target) == ("sequence", "both")
    assert answer(function, "/", {"value": 1}) == (200, {"value": 4})
    assert invoke(function, "triple")[0] == 404


def test_mixed_package_runs_plain_functions_aside(load):
    actions = {
        "a": {"code": "async def main(p):\n    return {'n': p['n'] + 1}\n", "runtime": "python"},
        "b": {"code": "def main(p):\n    return {'n': p['n'] * 2}\n", "runtime": "python"},
    }
    function = load({"packages": {"p": {"actions": actions, "sequences": {"s": {"actions": "a,b"}}}}})

    import asyncio

    reply = asyncio.run(function.call(ask("/s", {"n": 1})))
    assert json.loads(reply.body) == {"n": 4}


def test_directories_of_a_package_may_have_helpers_of_the_same_name(load):
    files = {
        f"{name}/{file}": text
        for name in ("one", "two")
        for file, text in {
            "__main__.py": "import helper\ndef main(p):\n    return {'name': helper.NAME}\n",
            "helper.py": f"NAME = {name!r}\n",
        }.items()
    }
    actions = {name: {"function": name} for name in ("one", "two")}
    function = load({"packages": {"p": {"actions": actions}}}, files=files)

    assert [invoke(function, name)[1] for name in actions] == [{"name": "one"}, {"name": "two"}]


@pytest.mark.parametrize(
    ("package", "message"),
    [
        ({"a": {"function": "../x.py"}}, "outside of the source"),
        ({"a": {"function": "none.py"}}, "does not include none.py"),
        ({"a": {"code": "x = 1", "runtime": "python"}}, "cannot import name 'main'"),
        ({"a": {"code": "main = 1", "runtime": "python"}}, "'main' is a int"),
        ({"a": {"function": "x.js"}}, "no action of the manifest is written in Python"),
    ],
)
def test_action_that_cannot_be_loaded_is_named(load, package, message):
    with pytest.raises(FunctionLoadError) as error:
        load({"packages": {"p": {"actions": package}}})
    assert message in str(error.value)


def test_source_without_action_needs_init_to_be_allowed(load):
    with pytest.raises(FunctionLoadError, match="no action in the source"):
        load(None)


# --- sequences and conductors ---


@pytest.mark.parametrize(
    ("name", "params", "expected"),
    [
        ("both", {"value": 2}, (200, {"value": 7})),
        ("nested", {"value": 1}, (200, {"value": 13})),
        ("stops", {"value": 2}, (502, {"error": "no"})),
        ("walk", {"value": 3}, (200, {"value": 10})),
    ],
)
def test_output_of_one_is_input_of_the_next_until_an_error(load, name, params, expected):
    assert invoke(load(SHOP), name, params) == expected


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("loop", {}, "Too many actions in the sequence."),
        ("gap", {}, "Sequence component does not exist: shop/none."),
        ("forever", {}, "Too many actions in the composition."),
        ("astray", {"to": "none"}, "Failed to resolve action with name 'none'"),
        ("astray", {"to": 3}, "Failed to parse action name from json value 3"),
    ],
)
def test_composition_without_end_or_component_is_an_error(load, name, params, message):
    status, value = invoke(load(SHOP), name, params)

    assert status == 502 and message in value["error"]


# --- web actions ---


def test_web_address_projects_by_extension(load):
    function = load(SHOP)

    assert function.call(ask("/api/v1/web/guest/shop/page", method="GET")).body == b"Home"
    text = function.call(ask("/api/v1/web/_/shop/page.text", method="GET"))
    assert dict(text.headers)[b"content-type"] == b"text/plain; charset=UTF-8"
    assert answer(function, "/api/v1/web/default/shop/page.json")[1]["body"] == "Home"
    assert function.call(ask("/api/v1/web/guest/shop/page.svg", method="GET")).status == 200


@pytest.mark.parametrize(
    "path", ["guest/shop/echo", "guest/shop/none", "other/shop/page", "guest/shop", "guest/none/page", ""]
)
def test_web_address_of_what_is_not_exported_is_not_found(load, path):
    status, value = answer(load(SHOP), f"/api/v1/web/{path}")

    assert (status, value["error"]) == (404, "The requested resource does not exist.")
    assert value["code"] == "i-1"


def test_web_developer_error_is_400(load):
    function = load("def main(p):\n    return None\n")

    assert answer(function, "/api/v1/web/guest/default/hello.json") == (
        400,
        {"error": "There was an error processing your request.", "code": "i-1"},
    )


def test_web_application_error_is_projected(load):
    function = load("def main(p):\n    raise ValueError('bad <b>')\n")

    assert function.call(ask("/api/v1/web/guest/default/hello.html")).body == b"bad <b>"
    assert function.call(ask("/api/v1/web/guest/default/hello.http")).status == 400


def test_web_action_with_authentication_needs_the_platforms_or_its_secret(load):
    function = load(SHOP, whisk_auth="user:key")
    locked = "/api/v1/web/guest/shop/locked.json"

    assert answer(function, locked)[0] == 401
    assert answer(function, "/locked")[0] == 401
    assert answer(function, "/run", {"action_name": "/_/shop/locked"})[0] == 401
    assert answer(function, locked, headers=[(b"authorization", BASIC)]) == (200, {"user": "default"})
    assert answer(function, "/api/v1/web/guest/shop/secret.json")[0] == 401
    known = [(b"x-require-whisk-auth", b"4711")]
    assert answer(function, "/api/v1/web/guest/shop/secret.json", headers=known)[0] == 200


def test_without_credentials_set_nobody_can_bring_them(load):
    assert answer(load(SHOP), "/locked", headers=[(b"authorization", BASIC)])[0] == 401


# --- the API ---


def test_blocking_invocation_returns_a_record_that_can_be_asked_for_again(load):
    function = load(SHOP)
    reply = function.call(ask("/api/v1/namespaces/_/actions/shop/fail?blocking=true", {}))
    record = json.loads(reply.body)

    assert reply.status == 502
    assert record["response"] == {
        "status": "application error",
        "statusCode": 1,
        "success": False,
        "result": {"error": "no"},
        "size": 14,
    }
    assert dict(reply.headers)[b"x-openwhisk-activation-id"].decode() == record["activationId"]
    path = f"/api/v1/namespaces/_/activations/{record['activationId']}"
    assert answer(function, path, method="GET") == (200, record)
    assert answer(function, f"{path}/result", method="GET")[1]["result"] == {"error": "no"}
    assert answer(function, f"{path}/logs", method="GET") == (200, {"logs": []})
    assert answer(function, "/api/v1/namespaces/_/activations?limit=5", method="GET")[1] == [record]
    assert answer(function, "/api/v1/namespaces/_/activations/none", method="GET")[0] == 404


@pytest.mark.parametrize(
    ("path", "method", "body", "status"),
    [
        ("_/actions/none?blocking=true", "POST", {}, 404),
        ("other/actions/echo?blocking=true", "POST", {}, 404),
        ("_/rules/x", "GET", None, 404),
        ("_/actions/echo", "PUT", {}, 405),
        ("_/actions/a/b/c", "GET", None, 404),
        ("_/activations/x", "DELETE", None, 405),
        ("_/actions/echo?blocking=true", "POST", b"{", 400),
        ("_/actions/echo?blocking=true", "POST", b"3", 400),
        ("_/actions/echo?blocking=true", "POST", b" " * 1_048_577, 413),
        ("_/triggers/none", "POST", {}, 404),
        ("", "GET", None, 404),
    ],
)
def test_bad_request_to_the_api_is_refused(load, path, method, body, status):
    assert answer(load(SHOP), f"/api/v1/namespaces/{path}", body, method=method)[0] == status


def test_actions_are_described_without_values_of_parameters(load):
    function = load(SHOP)

    assert len(answer(function, "/api/v1/namespaces/_/actions", method="GET")[1]) == 16
    found = answer(function, "/api/v1/namespaces/_/actions/shop/page", method="GET")[1]
    assert (found["namespace"], found["name"]) == ("default/shop", "page")
    assert {item["key"] for item in found["parameters"]} == {"currency", "title", "note"}
    assert "Home" not in json.dumps(found)


def test_api_asks_for_credentials_where_they_are_set(load):
    function = load(SHOP, whisk_auth="user:key")
    path = "/api/v1/namespaces/_/actions/echo?blocking=true&result=true"

    assert answer(function, path, {})[0] == 401
    assert answer(function, path, {}, headers=[(b"authorization", b"Basic !")])[0] == 401
    assert answer(function, path, {}, headers=[(b"authorization", BASIC)])[0] == 200


async def test_nonblocking_invocation_is_stored_and_carried_out_when_it_comes_back(load, platform):
    function = load(SHOP)
    request = ask("/api/v1/namespaces/_/actions/triple", {"value": 2})

    reply = await function.aside(request)

    (stored,) = platform.deferred
    assert (reply.status, json.loads(reply.body)) == (202, {"activationId": stored.id})
    event = Event(
        kind="deferred",
        component="pelton-deferred",
        component_type="",
        topic="",
        data=stored.data,
        content_type=stored.content_type,
        metadata=stored.metadata,
    )
    done = function.call(Invocation(id=stored.id, method="POST", target=b"/", headers=[], event=event))
    assert done.status == 204
    record = answer(function, f"/api/v1/namespaces/_/activations/{stored.id}", method="GET")[1]
    assert record["response"]["result"] == {"value": 6}


async def test_invocation_that_could_not_be_stored_is_not_accepted(load, platform):
    platform.ok = False

    reply = await load(SHOP).aside(ask("/api/v1/namespaces/_/actions/triple", {}))

    assert reply.status == 503


async def test_trigger_stores_one_invocation_per_rule(load, platform):
    reply = await load(SHOP).aside(ask("/api/v1/namespaces/_/triggers/button", {"b": 2}))

    assert reply.status == 202
    assert [item.metadata["action"] for item in platform.deferred] == ["shop/echo", "shop/fail"]
    assert [json.loads(item.data) for item in platform.deferred] == [{"a": 1, "b": 2}] * 2


async def test_aside_leaves_what_needs_user_code(load):
    function = load(SHOP)

    assert function.aside(ask("/")) is None
    assert function.aside(ask("/api/v1/namespaces/_/actions/echo?blocking=true", {})) is None
    assert (await function.aside(ask("/api/v1/namespaces/_/actions/none", {}))).status == 404


def test_without_a_store_an_invocation_is_carried_out_before_it_is_accepted(load):
    function = load(SHOP, defer=False)
    request = ask("/api/v1/namespaces/_/actions/echo", {"a": 1})

    assert function.aside(request) is None
    reply = function.call(request)
    assert reply.status == 202
    activation = json.loads(reply.body)["activationId"]
    record = answer(function, f"/api/v1/namespaces/_/activations/{activation}", method="GET")[1]
    assert record["response"]["result"] == {"a": 1, "currency": "EUR"}


@pytest.mark.parametrize(
    ("status", "target", "expected"),
    [
        (413, "/", 413),
        (503, "/", None),
        (504, "/", None),
        (503, "/api/v1/web/guest/shop/page", 429),
        (504, "/api/v1/web/guest/shop/page", 400),
        (504, "/api/v1/namespaces/_/actions/echo", 502),
    ],
)
def test_what_the_worker_refuses_is_answered_in_the_platforms_words(load, status, target, expected):
    reply = load(SHOP).refuse(status, "text", ask(target))

    assert (reply.status if reply else None) == expected


# --- events ---


def event(component_type="pubsub.jetstream", data=b"{}", **more):
    made = Event(
        kind=more.pop("kind", "topic"),
        component=more.pop("component", "bus"),
        component_type=component_type,
        topic=more.pop("topic", ""),
        data=data,
        content_type=more.pop("content_type", "application/json"),
        **more,
    )
    return Invocation(id="e-1", method="POST", target=b"/", headers=[], body=data, event=made)


SEEN = "SEEN = []\ndef main(p):\n    SEEN.append(p)\n    return {'error': 'x'} if p.get('fail') else {}\n"


@pytest.fixture
def seen(load):
    function = load(SEEN)
    return function, sys.modules["main__"].SEEN


def test_timer_brings_nothing_of_its_own(seen):
    function, found = seen

    assert function.call(event("bindings.cron", kind="binding")).status == 204
    assert found == [{}]


def test_record_comes_as_the_message_feed_gives_it(seen):
    function, found = seen
    metadata = {"__key": "k", "__partition": "2", "__offset": "7"}

    function.call(event(data=b'{"a": 1}', topic="news", metadata=metadata))
    function.call(event(data=b"\xff", topic="news", content_type=""))

    assert found[0] == {
        "messages": [{"topic": "news", "partition": 2, "offset": 7, "key": "k", "value": {"a": 1}}]
    }
    assert found[1]["messages"][0]["value"] == "/w=="


def test_cloudevent_looks_the_same_however_it_comes(seen):
    function, found = seen
    attributes = {"id": "1", "source": "/s", "type": "t", "specversion": "1.0"}
    structured = {**attributes, "datacontenttype": "application/json", "data": {"a": 1}}

    function.call(event(data=b'{"a": 1}', attributes=attributes))
    request = ask("/", json.dumps(structured).encode())
    request.headers[0] = (b"content-type", b"application/cloudevents+json")
    function.call(request)
    binary = [(f"ce-{name}".encode(), value.encode()) for name, value in attributes.items()]
    function.call(ask("/", {"a": 1}, headers=binary))

    assert [item["a"] for item in found] == [1, 1, 1]
    assert all(item["__ow_headers"]["ce-type"] == "t" for item in found)


def test_structured_event_that_is_none_is_refused(seen):
    request = ask("/", b'{"id": 1}')
    request.headers[0] = (b"content-type", b"application/cloudevents+json")

    assert seen[0].call(request).status == 400


def test_error_of_an_event_is_an_attempt(seen):
    reply = seen[0].call(event(data=b'{"fail": 1}', kind="binding", component_type="bindings.x"))

    assert (reply.status, reply.retry, reply.error) == (502, True, "x")


def test_trigger_starts_the_actions_of_its_rules(load):
    function = load(SHOP)

    assert function.call(event("bindings.cron", kind="binding", component="shop-nightly")).status == 204
    assert function.call(event(topic="news", data=b"{")).status == 204


def test_event_of_no_rule_is_dropped_unless_an_action_is_named(load):
    lost = event("bindings.x", kind="binding", data=b'{"value": 1}')
    reply = load(SHOP).call(lost)

    assert (reply.status, reply.retry) == (404, False)
    assert load(SHOP, action="shop/triple").call(lost).status == 204


# --- the container protocol ---


async def test_blank_runtime_takes_one_action(load, capsys):
    function = load(None, init="true")

    async def call(target, body):
        reply = await function.call(ask(target, body))
        return reply.status, json.loads(reply.body)

    assert await call("/run", {"value": {}}) == (500, {"error": "no action defined yet"})
    assert await call("/init", {}) == (403, {"error": "Missing main/no code to execute."})
    assert await call("/init", {"value": {"code": ECHO, "main": "a b"}}) == (
        403,
        {"error": "Missing main/no code to execute."},
    )
    assert (await call("/init", b"{"))[0] == 400
    assert (await call("/init", {"value": {"code": "!", "binary": True}}))[0] == 400
    assert (await call("/init", {"value": {"code": "eA==", "binary": True}}))[0] == 502
    assert (await call("/init", {"value": {"code": "def main("}}))[0] == 502
    assert (await call("/init", {"value": {"code": "1/0"}}))[1][
        "error"
    ] == "Cannot start action. Check logs for details."
    assert (await call("/init", {"value": {"code": ECHO, "main": "none"}}))[0] == 502
    assert await call("/init", {"value": {"code": ECHO}}) == (200, {"ok": True})
    assert (await call("/init", {"value": {"code": ECHO}}))[0] == 403
    capsys.readouterr()
    assert await call("/run", {"value": {"a": 1}}) == (200, {"a": 1})
    assert await call("/run", {"value": [1]}) == (200, [1])
    assert (await call("/run", {"value": 3}))[0] == 400
    out, err = capsys.readouterr()
    assert (out.count(SENTINEL), err.count(SENTINEL)) == (2, 2)
    await function.stop()


async def test_single_entry_initialises_and_runs_at_once(load):
    function = load(None, init="true")
    message = {"init": {"code": ECHO}, "activation": {"activation_id": "x"}, "value": {"a": 1}}

    reply = await function.call(ask("/", message))

    assert (reply.status, json.loads(reply.body)) == (200, {"a": 1})
    assert (await function.call(ask("/", message))).status == 403
    del message["init"]
    assert (await function.call(ask("/", message))).status == 200
    await function.stop()


def test_action_that_came_with_the_source_cannot_be_replaced(load):
    function = load(ECHO, init="true")

    assert answer(function, "/init", {"value": {"code": "x"}})[0] == 403
    assert answer(function, "/run", {"value": {"a": 1}}) == (200, {"a": 1})


@pytest.mark.parametrize(
    ("body", "status"), [("return None", 502), ("return {'a': {1}}", 502), ("raise SystemExit(1)", 400)]
)
def test_run_without_a_result_fails(load, body, status):
    assert answer(load(f"def main(p):\n    {body}\n"), "/run", {"value": {}})[0] == status


def test_run_answers_an_exception_with_200(load):
    assert answer(load("def main(p):\n    raise ValueError('x')\n"), "/run", {}) == (200, {"error": "x"})


def test_run_cannot_write_other_variables(load):
    function = load(
        "from os import getenv\ndef main(p):\n    return {'v': getenv('__OW_X'), 'p': getenv('PATH=')}\n"
    )

    assert answer(function, "/run", {"x": {"a": None}, "PATH=": "1", "é": 2}) == (
        200,
        {"v": '{"a": null}', "p": None},
    )


# --- records ---


def test_records_are_bounded_by_number_and_size():
    records = Records()
    for number in range(1_100):
        records.add(str(number), b"x")
    assert records.get("99") is None and records.get("100") == b"x"
    for number in range(20):
        records.add(f"big{number}", b"x" * 1_000_000)
    assert len(records.latest(2_000)) == 16


def test_errors_keep_nothing_but_the_error():
    assert Outcome(1, {"error": "e", "x": 1}).encoded() == (1, b'{"error":"e"}')
