"""Options of a NotificationManager: how each type of receiver is served, and where templates are.

`manifest/notification_routing` has the kind; `notify/settings.py` reads what is kept here as it is written.
Source: contracts, log and notification, sections 4.1 and 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pelton.manifest.fields import (
    AnyValue,
    Field,
    Integer,
    Items,
    Kept,
    Path,
    Problem,
    Reading,
    Text,
    describe,
)
from pelton.manifest.notification_fields import template_problems
from pelton.quantity import parse_duration

__all__ = ["OPTIONS", "TEMPLATE", "option_problems"]

_TEXT = Text()


class _Nanoseconds(AnyValue):
    """A duration as a whole number of nanoseconds, or as text such as `30s`."""

    def decode(self, value: Any, path: Path, reading: Reading) -> Any:
        """Accept either."""
        try:
            if isinstance(value, str):
                parse_duration(value)
                return value
        except ValueError as error:
            reading.problem(path, str(error))
            return None
        if type(value) is not int or value < 0:
            reading.problem(
                path, f'must be nanoseconds as a whole number or text such as "30s", found {describe(value)}'
            )
            return None
        return value

    def schema(self) -> dict[str, Any]:
        """Return a number or text."""
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}


def _field(name: str, shape: AnyValue, doc: str) -> Field:
    return Field(name, name, shape, doc=doc)


_TEMPLATE_NAME = _field("template", _TEXT, "Template of messages.")
_TITLE_NAME = _field("titleTemplate", _TEXT, "Template of titles.")
_TIMEOUT = _field("notificationTimeout", Integer(minimum=1), "Seconds for one call.")
_TOKEN = _field("tokenExpires", _Nanoseconds(), "How long a token is used.")
_PLAIN = Kept((_TIMEOUT, _TEMPLATE_NAME))
_THROTTLE = Kept(
    (
        _field("threshold", Integer(minimum=1), "Messages in that time."),
        _field("unit", _Nanoseconds(), "The time."),
        _field(
            "maxWaitTime", _Nanoseconds(), "How long a message waits before what waits becomes one digest."
        ),
    )
)


def _form(*choices: str) -> Field:
    return _field("tmplType", Text(choices=choices), f"Form; default {choices[0]}.")


OPTIONS = Kept(
    (
        _field(
            "global",
            Kept(
                (
                    _TEMPLATE_NAME,
                    _field("cluster", _TEXT, "Label cluster of alerts without."),
                    _field("templateFile", Items(_TEXT), "Files with templates; no effect here."),
                )
            ),
            "For all types.",
        ),
        _field(
            "email",
            Kept(
                (
                    _TIMEOUT,
                    _field("deliveryType", _TEXT, "No effect: each address gets a mail."),
                    _field("maxEmailReceivers", Integer(minimum=1), "No effect: each address gets a mail."),
                    _TEMPLATE_NAME,
                    _field("subjectTemplate", _TEXT, "Template of subjects."),
                    _form("html", "text"),
                )
            ),
            "For mail.",
        ),
        _field(
            "wechat",
            Kept(
                (
                    _TIMEOUT,
                    _TEMPLATE_NAME,
                    _form("text", "markdown"),
                    _field("messageMaxSize", Integer(minimum=200), "Bytes of a message."),
                    _TOKEN,
                )
            ),
            "For WeCom.",
        ),
        _field(
            "dingtalk",
            Kept(
                (
                    _TIMEOUT,
                    _TEMPLATE_NAME,
                    _TITLE_NAME,
                    _form("text", "markdown"),
                    _TOKEN,
                    _field("conversationMessageMaxSize", Integer(minimum=200), "Bytes of a message."),
                    _field("chatbotMessageMaxSize", Integer(minimum=200), "Bytes of a message of a bot."),
                    _field("chatBotThrottle", _THROTTLE, "How many messages a bot takes."),
                    _field("conversationThrottle", _THROTTLE, "How many messages conversations take."),
                )
            ),
            "For DingTalk.",
        ),
        _field("feishu", Kept((_TIMEOUT, _TEMPLATE_NAME, _form("post", "text"), _TOKEN)), "For Feishu."),
        _field("pushover", Kept((_TIMEOUT, _TEMPLATE_NAME, _TITLE_NAME)), "For Pushover."),
        *(
            _field(name, _PLAIN, f"For {name}.")
            for name in ("slack", "webhook", "sms", "discord", "telegram")
        ),
    )
)
"""Field `spec.receivers.options`."""

_CONFIG_MAP = Kept(
    (
        _field("namespace", _TEXT, "Namespace."),
        Field("name", "name", _TEXT, required=True, doc="Name."),
        _field("key", _TEXT, "Entry in it; default: all."),
    )
)

TEMPLATE = Kept(
    (
        _field("text", _CONFIG_MAP, "ConfigMap with templates."),
        _field("reloadCycle", _TEXT, "No effect: a changed ConfigMap counts at once."),
        _field("languagePack", Items(_CONFIG_MAP), "ConfigMaps with words of languages."),
        _field("language", _TEXT, "Language; default English."),
    )
)
"""Field `spec.template`."""


def option_problems(options: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with the templates that options name or hold."""
    for kind, each in options.items():
        for name in ("template", "titleTemplate", "subjectTemplate"):
            if isinstance(each, Mapping) and isinstance(each.get(name), str):
                yield from template_problems(f"spec.receivers.options.{kind}.{name}", each[name])
