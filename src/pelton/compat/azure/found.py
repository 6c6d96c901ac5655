"""Detection of Azure function apps: marker files, decorators and function.json, read and never imported.

One match per app, since Azure serves all functions of an app in one place; `--target NAME` narrows it to one.
What triggers them (schedules, topics, queues, routes) is read from the syntax tree. A schedule that is no
schedule, or names a setting that local.settings.json lacks, is handed on as written: whoever makes the
subscription then says what is wrong with it.
Source: `faas-conventions` contract, section 11 (rows 2 to 4).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pelton.compat.azure import schedule
from pelton.compat.azure.settings import Host, host_settings, local_values, resolve
from pelton.model.convention import Match, Tree, Trigger

__all__ = ["PACKAGE", "detect"]

PACKAGE: Final = "azure-functions>=1.17,<3"
"""What the platform preinstalls. Always added: functions of the older model may import nothing at all."""

_SCRIPT: Final = "function_app.py"
_APP: Final = "FunctionApp("
"""Also the end of AsgiFunctionApp( and WsgiFunctionApp(."""
_ASGI: Final = frozenset({"AsgiFunctionApp", "WsgiFunctionApp"})
_CRON: Final = frozenset({"timer_trigger", "schedule"})
# decorator -> (argument that names what is listened to, its position; the first parameter is arg_name)
_TOPICS: Final[Mapping[str, tuple[str, int]]] = {
    "queue_trigger": ("queue_name", 1),
    "kafka_trigger": ("topic", 1),
    "event_hub_message_trigger": ("event_hub_name", 2),
    "service_bus_queue_trigger": ("queue_name", 2),
    "service_bus_topic_trigger": ("topic_name", 2),
    "dapr_topic_trigger": ("topic", 2),
}
_GENERIC: Final = "generic_trigger"
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "queueTrigger": ("queueName",),
    "kafkaTrigger": ("topic",),
    "eventHubTrigger": ("eventHubName", "name"),
    "serviceBusTrigger": ("queueName", "topicName"),
    "daprTopicTrigger": ("topic",),
}


@dataclass(frozen=True, slots=True)
class _Found:
    """A function: its name, its trigger (None for kinds that nothing can subscribe to), whether in v2."""

    name: str
    trigger: Trigger | None


def detect(tree: Tree) -> tuple[Match, ...]:
    """Return the app of a tree, as one match per model that it follows."""
    files = set(tree.files)
    host = _host(tree)
    has_host = "host.json" in files
    settings = _settings(tree)
    matches = []
    script = settings.get("PYTHON_SCRIPT_FILE_NAME") or _SCRIPT
    if script not in files and tree.asked:
        script = next((item.name for item in tree.sources if _has_app(tree.text(item.name))), script)
    text = tree.text(script) if script in files else ""
    if _has_app(text) and (has_host or tree.asked):
        rule = f"host.json and {script} with a FunctionApp" if has_host else f"{script} with a FunctionApp"
        matches.append(_match(tree, host, "v2", "2", rule, script, _decorated(tree, script, host, settings)))
    if host.handler:
        rule = "host.json with customHandler"
        functions = _described(tree, host, settings)
        matches.append(_match(tree, host, "custom-handler", "3", rule, "", functions))
    elif functions := _described(tree, host, settings):
        names = ", ".join(item.name for item in functions)
        rule = f"function.json with bindings in {names}"
        matches.append(_match(tree, host, "v1", "4", rule, "", functions))
    return tuple(match for match in matches if match is not None)


def _has_app(text: str) -> bool:
    return _APP in text


def _host(tree: Tree) -> Host:
    documents = tree.documents("host.json")
    return host_settings(documents[0]) if documents and isinstance(documents[0], dict) else Host()


def _settings(tree: Tree) -> dict[str, str]:
    documents = tree.documents("local.settings.json")
    return local_values(documents[0]) if documents and isinstance(documents[0], dict) else {}


def _match(
    tree: Tree, host: Host, signature: str, row: str, rule: str, source: str, found: list[_Found]
) -> Match | None:
    if tree.target:
        # asked for this convention, a name that no rule sees (a function registered in a loop) is believed
        wanted = [item for item in found if item.name == tree.target]
        if not wanted and not (tree.asked and signature == "v2"):
            return None
        found = wanted
    options = {}
    if host.timeout_s is not None:
        options["request-timeout"] = f"{host.timeout_s:.0f}s"
    return Match(
        target=tree.target,
        signature=signature,
        rule=rule,
        row=row,
        stage="marker",
        source=source,
        options=options,
        triggers=tuple(item.trigger for item in found if item.trigger is not None),
        implied=() if signature == "custom-handler" else (PACKAGE,),
    )


# --- function.json ---
def _described(tree: Tree, host: Host, settings: Mapping[str, str]) -> list[_Found]:
    found = []
    for name in tree.files:
        folder, slash, file = name.partition("/")
        if not slash or file != "function.json":
            continue
        documents = tree.documents(name)
        document = documents[0] if documents else None
        bindings = document.get("bindings") if isinstance(document, dict) else None
        if not isinstance(bindings, list):
            continue
        known = [item for item in bindings if isinstance(item, dict)]
        trigger = next((item for item in known if str(item.get("type", "")).endswith("rigger")), {})
        found.append(_Found(folder, _of_fields(folder, trigger, host, settings)))
    return found


def _of_fields(
    function: str, fields: Mapping[str, Any], host: Host, settings: Mapping[str, str]
) -> Trigger | None:
    kind = str(fields.get("type", ""))
    if kind == "httpTrigger":
        route = fields.get("route")
        return _http(function, route if isinstance(route, str) else function, host)
    if kind == "timerTrigger":
        return _cron(function, fields.get("schedule"), settings)
    for name in _FIELDS.get(kind, ()):
        if isinstance(fields.get(name), str):
            return Trigger(kind="topic", value=resolve(fields[name], settings), name=function)
    return None


def _http(function: str, route: str, host: Host) -> Trigger:
    path = "/".join(part for part in (host.prefix, route.strip("/")) if part)
    return Trigger(kind="http", value=f"/{path}", name=function)


def _cron(function: str, written: Any, settings: Mapping[str, str]) -> Trigger | None:
    if not isinstance(written, str):
        return None
    text = resolve(written, settings)
    try:
        text = schedule.parse(text).cron()
    except schedule.ScheduleError:
        pass
    return Trigger(kind="cron", value=text, name=function)


# --- decorators ---
def _decorated(tree: Tree, script: str, host: Host, settings: Mapping[str, str]) -> list[_Found]:
    found: list[_Found] = []
    for name in tree.files:
        if not name.endswith(".py"):
            continue
        if name != script and "Blueprint(" not in tree.text(name):
            continue
        module = tree.module(name)
        if module is not None:
            found += _functions(module, host, settings)
    return found


def _functions(module: ast.Module, host: Host, settings: Mapping[str, str]) -> Iterator[_Found]:
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found = _function(node, host, settings)
            if found is not None:
                yield found
        elif isinstance(node, ast.Call) and _last(node.func) in _ASGI:
            name = _argument(node, "function_name", 2) or "http_app_func"
            yield _Found(name, _http(name, "{*route}", host))


def _function(
    node: ast.FunctionDef | ast.AsyncFunctionDef, host: Host, settings: Mapping[str, str]
) -> _Found | None:
    calls = {
        _last(item.func): item
        for item in node.decorator_list
        if isinstance(item, ast.Call) and isinstance(item.func, ast.Attribute)
    }
    named = calls.get("function_name")
    name = (_argument(named, "name", 0) if named else "") or node.name
    for decorator, call in calls.items():
        if decorator == "route":
            return _Found(name, _http(name, _argument(call, "route", 0) or name, host))
        if decorator in _CRON:
            return _Found(name, _cron(name, _argument(call, "schedule", 1), settings))
        if decorator == _GENERIC:
            fields = ("type", *{field for names in _FIELDS.values() for field in names}, "schedule", "route")
            given = {field: _argument(call, field, len(call.args)) for field in fields}
            given = {field: value for field, value in given.items() if value}
            return _Found(name, _of_fields(name, given, host, settings))
        if decorator in _TOPICS:
            topic = _argument(call, *_TOPICS[decorator])
            value = resolve(topic, settings)
            return _Found(name, Trigger(kind="topic", value=value, name=name) if topic else None)
        if decorator.endswith("_trigger"):
            return _Found(name, None)
    return None


def _last(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _argument(call: ast.Call, name: str, position: int) -> str:
    """Return a text argument of a call; "" when it is not there or computed."""
    value: ast.expr | None = next((item.value for item in call.keywords if item.arg == name), None)
    if value is None and position < len(call.args):
        value = call.args[position]
    return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""
