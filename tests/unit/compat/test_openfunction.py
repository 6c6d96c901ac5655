import logging

import pytest

from pelton.errors import FunctionLoadError
from pelton.model.invocation import Delivered
from pelton.model.state import StateAnswer, StateItem

OUTPUTS = {"results": {"componentName": "bus", "componentType": "pubsub.jetstream", "topic": "results"}}
HEAD = "from functions_framework.context.user_context import UserContext\n"


def test_http_request_reaches_the_function_with_path_and_query(load, request_of):
    function = load("openfunction_http")

    reply = function.call(request_of(b"/a%20b?name=you"))

    assert reply.status == 200
    assert reply.body == b'{"method":"GET","name":"you","path":"/a b"}\n'
    assert (function.signature, function.target, function.sync) == ("openfunction", "hello", True)


def test_function_without_outputs_is_not_blocking(load):
    assert load("openfunction_http").blocking is False
    assert load("openfunction_topic", context={"outputs": OUTPUTS}).blocking is True


def test_favicon_and_robots_never_reach_the_function(load):
    assert load("openfunction_http").unhandled_paths == {b"/favicon.ico", b"/robots.txt"}


def test_topic_event_has_the_accessors_of_the_original(load, event_of, platform):
    function = load("openfunction_topic", context={"outputs": OUTPUTS})

    reply = function.call(event_of(id="e-7", source="shop"))

    assert reply.status == 200
    assert platform.outputs[0].data == b'{"seen": {"a": 1}, "id": "e-7"}'
    assert platform.outputs[0].content_type == "application/json"


def test_refused_output_fails_the_event_so_that_it_comes_back(load, event_of, platform):
    function = load("openfunction_topic", context={"outputs": OUTPUTS})
    platform.answer = Delivered(ok=False, error="stream is full")

    reply = function.call(event_of())

    assert reply.status == 500
    assert reply.retry is True
    assert "stream is full" in reply.error


def test_refused_output_is_returned_as_text_over_http(load, request_of, platform):
    function = load(
        HEAD + "def f(context: UserContext):\n    return context.send('results', 'x')\n",
        context={"outputs": OUTPUTS},
    )
    platform.answer = Delivered(ok=False, error="stream is full")

    reply = function.call(request_of())

    assert reply.status == 200
    assert reply.body == b"An error occurred: stream is full"


def test_any_name_means_the_lone_output(load, request_of, platform):
    source = HEAD + "def f(context: UserContext):\n    return context.send('anything', 'x').text()\n"
    function = load(source, context={"outputs": OUTPUTS})

    reply = function.call(request_of())

    assert reply.body == b"stored"
    assert platform.outputs[0].name == "results"


def test_unknown_output_among_several_is_an_error_that_lists_them(load, request_of, platform):
    outputs = OUTPUTS | {"other": {"componentType": "bindings.http"}}
    source = HEAD + "def f(context: UserContext):\n    return context.send('anything', 'x')\n"

    reply = load(source, context={"outputs": outputs}).call(request_of())

    assert reply.body.startswith(
        b"An error occurred: No output named anything found; there are other, results"
    )
    assert platform.outputs == []


def test_binding_gets_text_as_it_is_and_topic_gets_json(load, request_of, platform):
    outputs = {
        "topic": {"componentType": "pubsub.kafka", "uri": "t"},
        "http": {"componentType": "bindings.http", "uri": "http"},
    }
    source = HEAD + (
        "def f(context: UserContext):\n    context.send('topic', 'x')\n    context.send('http', 'x')\n"
    )

    load(source, context={"outputs": outputs}).call(request_of())

    assert [output.data for output in platform.outputs] == [b'"x"', b"x"]


def test_binding_request_has_text_data_and_metadata(load, event_of):
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    request = context.get_binding_request()\n"
        "    assert request.text() == 'tick' and request.data == b'tick'\n"
        "    assert request.metadata == {'key': 'value'}\n"
        "    assert context.get_topic_event() is None and context.get_http_request() is None\n"
    )

    assert load(source).call(event_of("binding", b"tick")).status == 200


def test_none_answers_200_with_an_empty_body(load, request_of):
    reply = load(HEAD + "def f(context: UserContext):\n    pass\n").call(request_of())

    assert (reply.status, reply.body) == (200, b"")


@pytest.mark.parametrize(
    ("code", "status", "header"), [(200, 200, b"success"), (500, 500, b"error")], ids=["success", "failure"]
)
def test_out_answers_where_the_function_returns_none(load, request_of, code, status, header):
    source = HEAD + f"def f(context: UserContext):\n    context.out.set_code({code}).set_data('body')\n"

    reply = load(source).call(request_of())

    assert (reply.status, reply.body) == (status, b"body")
    assert (b"x-openfunction-status", header) in reply.headers


@pytest.mark.parametrize(
    ("kind", "metadata", "retry"),
    [("topic", "{}", False), ("topic", "{'retry': 'true'}", True), ("binding", "{}", True)],
)
def test_failed_out_decides_whether_the_event_comes_back(load, event_of, kind, metadata, retry):
    source = HEAD + (
        "def f(context: UserContext):\n"
        f"    context.out.set_code(500).set_metadata({metadata}).set_error('no stock')\n"
    )

    reply = load(source).call(event_of(kind))

    assert (reply.status, reply.retry, reply.error) == (500, retry, "no stock")


def test_exception_goes_on_to_the_worker_and_maps_to_crash(load, request_of):
    function = load(HEAD + "def f(context: UserContext):\n    raise ValueError('secret')\n")

    with pytest.raises(ValueError, match="secret") as raised:
        function.call(request_of())
    reply = function.on_error(raised.value)

    assert reply.status == 500
    assert (b"x-openfunction-status", b"crash") in reply.headers
    assert b"secret" not in reply.body


async def test_coroutine_function_sends_with_send_async(load, request_of, platform):
    source = HEAD + (
        "async def f(context: UserContext):\n    return (await context.send_async('results', [1])).text()\n"
    )
    function = load(source, context={"outputs": OUTPUTS})

    reply = await function.call(request_of())

    assert function.sync is False
    assert reply.body == b"stored"


async def test_send_in_a_coroutine_function_says_what_to_use(load, request_of):
    source = HEAD + "async def f(context: UserContext):\n    context.send('results', 1)\n"
    function = load(source, context={"outputs": OUTPUTS})

    with pytest.raises(RuntimeError, match="send_async"):
        await function.call(request_of())


@pytest.mark.parametrize(
    "definition",
    [
        "def f(ctx: UserContext): ...",
        "def f(context): ...",
        "def f(context: UserContext, more): ...",
        "def f(): ...",
    ],
)
def test_other_signatures_are_refused_with_the_right_one(load, definition):
    with pytest.raises(FunctionLoadError) as raised:
        load(HEAD + definition + "\n", target="f")

    assert "def f(context: UserContext)" in raised.value.hint
    assert raised.value.where == "main.py:2"


def test_missing_target_lists_what_is_there(load):
    with pytest.raises(FunctionLoadError) as raised:
        load("openfunction_http", target="helo")

    assert "hello" in raised.value.hint


def test_hooks_run_in_order_and_share_one_fresh_instance(load, request_of, caplog):
    function = load(
        "with_hooks",
        context={
            "preHooks": ["plugin-custom", "plugin-example"],
            "postHooks": ["plugin-example", "plugin-custom"],
        },
    )
    logger = logging.getLogger("function.hello")
    logger.propagate = True
    with caplog.at_level("INFO"):
        first = function.call(request_of())
        second = function.call(request_of())

    assert first.body == second.body == b"custom-pre,function"
    assert caplog.messages[:2] == [
        'plugin - Result: {"sum":2}',
        "custom-post 200 ['plugin-custom', 'plugin-example']",
    ]


def test_failing_and_unknown_hooks_are_logged_and_never_fatal(load, request_of, caplog):
    logging.getLogger("function.hello").propagate = True

    function = load("with_hooks", context={"preHooks": ["plugin_custom.Failing", "nowhere", "no.such"]})
    reply = function.call(request_of())

    assert reply.body == b"function"
    assert "hook 'nowhere' is unknown and skipped" in caplog.text
    assert "hook 'no.such' is unknown and skipped" in caplog.text
    assert "hook 'plugin_custom.Failing' failed in exec_pre_hook" in caplog.messages


def test_context_tells_triggers_and_outputs_in_all_shapes(load, request_of):
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    runtime = context.runtime_context\n"
        "    trigger = runtime.get_dapr_triggers()[0]\n"
        "    return [runtime.name, runtime.has_http_trigger(), runtime.http_trigger.port, trigger.topic,\n"
        "            runtime.get_outputs()['o'].topic]\n"
    )
    context = {
        "name": "fn",
        "port": "8080",
        "triggers": {
            "http": {"port": 8080},
            "dapr": [{"name": "bus", "type": "pubsub.jetstream", "topic": "in"}],
        },
        "outputs": {"o": {"componentType": "pubsub.jetstream", "uri": "out"}},
    }

    reply = load(source, context=context).call(request_of())

    assert reply.body == b'["fn",true,8080,"in","out"]\n'


STATES = {"db": {"componentName": "db", "componentType": "state.sqlite"}}


def test_state_is_used_through_the_platform_and_never_inline(load, request_of, platform):
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    context.state.save({'key': 'a', 'value': 1})\n"
        "    return str(context.state.get('a'))\n"
    )
    function = load(source, context={"states": STATES})
    platform.state_answer = StateAnswer(items=[StateItem(key="a", data=b"1", json=True)])

    reply = function.call(request_of())

    assert function.blocking
    assert reply.body == b"1"
    assert [(call.operation, call.store) for call in platform.state_calls] == [("write", "db"), ("get", "db")]


async def test_state_is_awaited_in_coroutine_functions(load, request_of, platform):
    source = HEAD + (
        "async def f(context: UserContext):\n"
        "    await context.state.delete('a')\n"
        "    return str(await context.state.get('a'))\n"
    )
    platform.state_answer = StateAnswer(items=[StateItem(key="a")])

    reply = await load(source, context={"states": STATES}).call(request_of())

    assert reply.body == b"None"


def test_one_function_takes_requests_and_events(load, request_of, event_of):
    triggers = {
        "http": {"port": 8080},
        "dapr": [{"name": "bus", "type": "pubsub.jetstream", "topic": "orders"}],
    }
    source = HEAD + (
        "seen = []\n"
        "def f(context: UserContext):\n"
        "    event = context.get_topic_event() or context.get_binding_request()\n"
        "    seen.append(event.data.decode() if event else context.get_http_request().path)\n"
        "    return ' '.join(seen)\n"
    )
    function = load(source, context={"triggers": triggers, "runtime": "Async"})

    assert function.call(request_of(b"/x")).body == b"/x"
    assert function.call(event_of(data=b"e")).status == 200
    assert function.call(event_of("binding", b"b")).status == 200
    assert function.call(request_of(b"/y")).body == b"/x e b /y"


def test_cloudevent_over_http_stays_a_request(load, request_of):
    source = HEAD + (
        "def f(context: UserContext):\n"
        "    request = context.get_http_request()\n"
        "    assert context.get_topic_event() is None\n"
        "    return request.headers['ce-type'] + request.get_data(as_text=True)\n"
    )
    headers = [(b"ce-id", b"1"), (b"ce-type", b"t"), (b"ce-source", b"s"), (b"ce-specversion", b"1.0")]

    reply = load(source).call(request_of(method="POST", body=b"{}", headers=headers))

    assert reply.body == b"t{}"


def test_out_may_be_returned_like_in_go(load, request_of, event_of):
    source = (
        HEAD + "def f(context: UserContext):\n    return context.out.set_code(500).set_error('no stock')\n"
    )
    function = load(source)

    reply = function.call(request_of())

    assert (reply.status, reply.body) == (500, b"no stock")
    assert (b"x-openfunction-status", b"error") in reply.headers
    assert function.call(event_of("binding")).error == "no stock"


HOOKS = (
    "import asyncio\n"
    "class Audit:\n"
    "    name = 'audit'\n"
    "    async def exec_pre_hook(self, context, plugins):\n"
    "        await asyncio.sleep(0)\n"
    "        context.out.metadata['pre'] = 'seen'\n"
    "    async def exec_post_hook(self, context, plugins):\n"
    "        context.logger.warning('after %s %s', context.out.code, context.out.metadata['pre'])\n"
)


async def test_coroutine_functions_may_have_coroutine_hooks(load, request_of, caplog):
    source = HEAD + HOOKS + "async def f(context: UserContext):\n    return 'ok'\n"

    function = load(source, context={"name": "hooked", "preHooks": ["audit"], "postHooks": ["audit"]})
    await function.call(request_of())

    assert "after 200 seen" in caplog.text


def test_coroutine_hook_of_a_plain_function_is_logged_and_skipped(load, request_of, caplog):
    source = HEAD + HOOKS + "def f(context: UserContext):\n    return 'ok'\n"

    reply = load(source, context={"name": "hooked2", "preHooks": ["audit"]}).call(request_of())

    assert reply.body == b"ok"
    assert "which only a coroutine function can have" in caplog.text


def test_tracing_provider_among_the_plugins_is_no_unknown_hook(load, caplog):
    tracing = {"enabled": True, "provider": {"name": "skywalking"}}

    load(
        HEAD + "def f(context: UserContext): ...\n",
        context={"prePlugins": ["skywalking"], "pluginsTracing": tracing},
    )

    assert "unknown" not in caplog.text
