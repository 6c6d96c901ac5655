"""Lambda functions that a template declares: AWS SAM, CloudFormation, the Serverless Framework.

Called by `detect.py`; a template's resources become Matches with the options that serve them. Pure.
Source: `faas-conventions` contract, section 11, row 5. Decided where it is silent: functions whose runtime is
neither Python nor a custom one, and images, are left out; of what a template computes (references to other
resources) only names are used; an AWS schedule that cron cannot say makes no trigger.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.model.convention import Match, Tree, Trigger

__all__ = ["matches", "schedule"]

_FILES: Final = ("template.yaml", "template.yml", "template.json")
_SERVERLESS: Final = ("serverless.yml", "serverless.yaml", "serverless.json")
_TYPES: Final = ("AWS::Serverless::Function", "AWS::Lambda::Function")
_SOURCES: Final = {
    "SQS": ("sqs", "Queue"),
    "SNS": ("sns", "Topic"),
    "S3": ("s3", "Bucket"),
    "Kinesis": ("kinesis", "Stream"),
    "MSK": ("kafka", "Topics"),
    "SelfManagedKafka": ("self-managed-kafka", "Topics"),
    "EventBridgeRule": ("eventbridge", ""),
    "CloudWatchEvent": ("eventbridge", ""),
}
_HTTP: Final = {"Api": "apigw-v1", "HttpApi": "apigw-v2"}
_UNITS: Final = {"minute": "m", "hour": "h", "day": "h"}
_DAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


@dataclass(slots=True)
class _Declared:
    """A function as its template declares it."""

    name: str
    handler: str
    runtime: str
    code: str
    rule: str
    file: str
    aliases: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    routes: list[str] = field(default_factory=list)
    triggers: list[Trigger] = field(default_factory=list)


def matches(tree: Tree) -> Iterator[Match]:
    """Return the functions that the templates at the top of a tree declare."""
    declared = [
        item
        for file in _FILES
        if file in tree.files
        for document in tree.documents(file)
        for item in _cloudformation(document, file)
    ]
    declared += [
        item
        for file in _SERVERLESS
        if file in tree.files
        for document in tree.documents(file)
        for item in _serverless(document, file)
    ]
    handlers = [item.handler for item in declared]
    for item in declared:
        yield from _match(item, tree, shared=handlers.count(item.handler) > 1)


def _match(item: _Declared, tree: Tree, *, shared: bool) -> Iterator[Match]:
    """Return a declared function as a Match, if Pelton has a runtime for it.

    Args:
        item: The function.
        tree: Where it is declared.
        shared: Whether another one has the same handler, so that only its name tells them apart.
    """
    if item.runtime.startswith("provided"):
        signature = "runtime"
    elif item.runtime.startswith("python") or (not item.runtime and _file(item, tree)):
        signature = "handler"
    else:
        return
    options = dict(item.options)
    folder = item.code.strip("/").removeprefix("./").strip("/")
    if folder not in {"", "."}:
        options["code-uri"] = folder
    if item.routes:
        options["http-routes"] = ", ".join(item.routes)
    target = item.name if shared or not item.handler else item.handler
    if tree.target and tree.target in {item.name, item.handler, *item.aliases}:
        target = tree.target
    if target != item.handler and item.handler:
        options["handler"] = item.handler
    yield Match(
        target=target,
        signature=signature,
        rule=item.rule,
        row="5",
        stage="marker",
        source=_file(item, tree),
        options=options,
        triggers=tuple(item.triggers),
    )


def _file(item: _Declared, tree: Tree) -> str:
    """Return the Python file of a handler, "" where it cannot be told."""
    module = item.handler.rpartition(".")[0].replace(".", "/")
    folder = item.code.strip("/").removeprefix("./").strip("/")
    name = f"{folder}/{module}.py" if folder not in {"", "."} else f"{module}.py"
    return name if name in tree.files else ""


# --- SAM, CloudFormation ---


def _cloudformation(document: Any, file: str) -> Iterator[_Declared]:
    resources = document.get("Resources") if isinstance(document, dict) else None
    if not isinstance(resources, dict):
        return
    shared = _dict(_dict(document.get("Globals")).get("Function"))
    for name, resource in resources.items():
        kind = _dict(resource).get("Type")
        if kind not in _TYPES:
            continue
        own = _dict(resource.get("Properties"))
        given = {**shared, **own} if kind == _TYPES[0] else own
        if given.get("PackageType") == "Image":
            continue
        code = given.get("CodeUri") if kind == _TYPES[0] else given.get("Code")
        item = _Declared(
            name=str(name),
            handler=_word(given.get("Handler")),
            runtime=_word(given.get("Runtime")),
            code=code if isinstance(code, str) and "://" not in code else "",
            rule=f"the resource {name} ({kind}) in {file}",
            file=file,
            aliases=(_word(given.get("FunctionName")),),
        )
        variables = {
            **_dict(_dict(shared.get("Environment")).get("Variables")),
            **_dict(_dict(own.get("Environment")).get("Variables")),
        }
        _settings(item, given.get("Timeout"), given.get("MemorySize"), variables)
        if "FunctionUrlConfig" in given:
            item.options["http-event"] = "function-url"
        for event in _dict(given.get("Events")).values():
            _sam_event(item, str(_dict(event).get("Type")), _dict(_dict(event).get("Properties")))
        yield item


def _settings(item: _Declared, timeout: Any, memory: Any, variables: Mapping[str, Any]) -> None:
    if isinstance(timeout, int) and timeout > 0:
        item.options["request-timeout"] = f"{timeout}s"
    if isinstance(memory, int) and memory > 0:
        item.options["memory-size"] = str(memory)
    literal = {
        str(name): str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in variables.items()
        if isinstance(value, str | int | float)
    }
    if literal:
        item.options["environment"] = json.dumps(literal, sort_keys=True)


def _sam_event(item: _Declared, kind: str, given: Mapping[str, Any]) -> None:
    if kind in _HTTP:
        item.options["http-event"] = _HTTP[kind]
        _route(item, given.get("Method"), given.get("Path"))
    elif kind in {"Schedule", "ScheduleV2"}:
        _timer(item, given.get("Schedule") or given.get("ScheduleExpression"))
    elif kind in _SOURCES:
        source, place = _SOURCES[kind]
        item.options.setdefault("event-source", source)
        topics = given.get(place)
        for topic in topics if isinstance(topics, list) else [topics]:
            _topic(item, topic)


def _route(item: _Declared, method: Any, path: Any) -> None:
    if not isinstance(path, str) or not path:
        return
    path = path if path.startswith("/") else f"/{path}"
    verb = str(method or "ANY").upper()
    item.routes.append(f"{'ANY' if verb in {'*', 'X-AMAZON-APIGATEWAY-ANY-METHOD'} else verb} {path}")
    item.triggers.append(Trigger(kind="http", value=path))


def _timer(item: _Declared, expression: Any) -> None:
    said = schedule(expression) if isinstance(expression, str) else ""
    if said:
        item.triggers.append(Trigger(kind="cron", value=said))


def _topic(item: _Declared, where: Any) -> None:
    """Add the trigger of a queue, topic or stream, by the last part of its ARN or its logical id."""
    if not isinstance(where, str):
        return
    name = re.sub(r"[^A-Za-z0-9_-]", "", where.removesuffix(".Arn").rpartition(":")[2].rpartition("/")[2])
    if name:
        item.triggers.append(Trigger(kind="topic", value=name))


def schedule(expression: str) -> str:
    """Return an AWS schedule as cron says it; "" for one that it cannot.

    Args:
        expression: `rate(5 minutes)` or `cron(minute hour day month weekday year)`.
    """
    rate = re.fullmatch(r"rate\((\d+) (minute|hour|day)s?\)", expression.strip())
    if rate:
        count = int(rate[1]) * (24 if rate[2] == "day" else 1)
        return f"@every {count}{_UNITS[rate[2]]}" if count else ""
    cron = re.fullmatch(r"cron\((.*)\)", expression.strip())
    fields = cron[1].split() if cron else []
    if len(fields) != 6 or fields[5] not in {"*", "?"}:
        return ""
    minute, hour, day, month, weekday, _ = ("*" if item == "?" else item for item in fields)
    if re.search(r"L|W|#", day) or re.search(r"(?<![A-Z])L|#", weekday):
        return ""
    # Days of the week are numbered from 1 there and from 0 here; names are the same.
    weekday = re.sub(r"(?<![/\d])[1-7]", lambda found: _DAYS[int(found[0]) - 1], weekday)
    return f"{minute} {hour} {day} {month} {weekday}"


# --- Serverless Framework ---


def _serverless(document: Any, file: str) -> Iterator[_Declared]:
    if not isinstance(document, dict):
        return
    provider = document.get("provider")
    shared = {"name": provider} if isinstance(provider, str) else _dict(provider)
    if shared.get("name") != "aws":
        return
    for name, given in _dict(document.get("functions")).items():
        own = _dict(given)
        item = _Declared(
            name=str(name),
            handler=_word(own.get("handler")),
            runtime=_word(own.get("runtime") or shared.get("runtime")),
            code="",
            rule=f"the function {name} in {file}, whose provider is aws",
            file=file,
            aliases=(_word(own.get("name")),),
        )
        _settings(
            item,
            own.get("timeout", shared.get("timeout")),
            own.get("memorySize", shared.get("memorySize")),
            {**_dict(shared.get("environment")), **_dict(own.get("environment"))},
        )
        if own.get("url"):
            item.options["http-event"] = "function-url"
        for event in _list(own.get("events")):
            _serverless_event(item, event)
        yield item


def _serverless_event(item: _Declared, event: Any) -> None:
    pairs: Iterable[tuple[str, Any]] = (
        event.items() if isinstance(event, dict) else [(event, None)] if isinstance(event, str) else ()
    )
    for kind, given in pairs:
        if kind in {"http", "httpApi"}:
            item.options["http-event"] = "apigw-v1" if kind == "http" else "apigw-v2"
            if isinstance(given, str):
                method, _, path = given.strip().partition(" ")
                _route(item, method, path or ("/{proxy+}" if method == "*" else ""))
            else:
                _route(item, _dict(given).get("method"), _dict(given).get("path"))
        elif kind == "alb":
            item.options["http-event"] = "alb"
        elif kind == "schedule":
            rates = given if isinstance(given, str) else _dict(given).get("rate")
            for rate in rates if isinstance(rates, list) else [rates]:
                _timer(item, rate)
        elif kind in {"sqs", "sns", "s3", "stream", "msk", "kafka", "eventBridge"}:
            source = {"stream": "kinesis", "msk": "kafka", "kafka": "self-managed-kafka"}.get(
                kind, kind.lower()
            )
            item.options.setdefault("event-source", source)
            said = _dict(given)
            where = (
                given
                if isinstance(given, str)
                else (said.get("topic") or said.get("bucket") or said.get("arn"))
            )
            _topic(item, where)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _word(value: Any) -> str:
    return value.strip() if isinstance(value, str) else ""
