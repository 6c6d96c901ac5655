"""How a group of alerts becomes what a Sender takes: by users' templates or our own words, in parts.

`notify/sending.py` calls `render` with the Style that `notify/settings.py` made of a receiver. What a
template cannot do is done in plain words, with the reason added: an alert is never lost to a template.
Source: contracts, log and notification, sections 7, 8 and 10.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec

from pelton.notify.alert import Alert
from pelton.notify.default_templates import DEFAULT_TEMPLATES, LANGUAGES
from pelton.notify.grouping import Group
from pelton.notify.template import (
    RENDERERS,
    cut,
    email_payload,
    plain_words,
    slack_escape,
    slack_sections,
    title,
    webhook_payload,
)
from pelton.notify.template_data import Data, alert_functions, jinja_data
from pelton.texttemplate.fault import JINJA_SUFFIXES, TemplateFault
from pelton.texttemplate.go_run import GoTemplates

if TYPE_CHECKING:
    from pelton.texttemplate.jinja import JinjaTemplates

__all__ = [
    "NO_TEMPLATES",
    "DEFAULT_NAMES",
    "Piece",
    "Style",
    "TemplateSet",
    "is_inline",
    "payload_of",
    "render",
    "shorten",
    "shown",
]

DEFAULT_NAMES: Mapping[tuple[str, str], str] = {
    ("dingtalk", "text"): "nm.default.text",
    ("dingtalk", "markdown"): "nm.default.markdown",
    ("wechat", "text"): "nm.default.text",
    ("wechat", "markdown"): "nm.default.markdown",
    ("feishu", "text"): "nm.feishu.text",
    ("feishu", "post"): "nm.feishu.post",
    ("email", "text"): "nm.default.text",
    ("email", "html"): "nm.default.html",
    ("slack", ""): "nm.default.text",
    ("console", ""): "nm.default.text",
}
"""Block and format -> template where none is named. Slack, mail and console have our own words instead,
unless the user's texts define that name."""

SUBJECT = "nm.default.subject"
"""Template of titles and subjects where none is named."""

_OWN_WORDS = frozenset({"slack", "email", "console"})
_JSON_NAMES = frozenset({"webhook.default.message", "nm.default.history"})
_SLACK_TEXT = 40_000
_TITLE = 200
_AIMED = 4
_MARK = " …[cut]"


def is_inline(template: str) -> bool:
    """Tell whether a field named `template` holds a text rather than a name."""
    return "{{" in template


class TemplateSet:
    """The user's templates, with the default ones below them.

    Args:
        texts: (name, text) in order, later definitions replace earlier ones. A name that ends like a file of
            Jinja2 is one of Jinja2's, called by that name; others are Go's.
        language: Of `translate` and `message`.
        words: Language, lower-cased -> words of the user's packs.
    """

    def __init__(
        self,
        texts: Iterable[tuple[str, str]] = (),
        *,
        language: str = "",
        words: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        chosen = language.lower() or "english"
        dictionary = {**LANGUAGES.get(chosen, LANGUAGES["english"]), **(words or {}).get(chosen, {})}
        functions = alert_functions(dictionary, chinese=chosen == "zh-cn")
        self._go = GoTemplates(functions)
        self._go.add(DEFAULT_TEMPLATES, name="default")
        self.faults: list[TemplateFault] = []
        """What is wrong with the texts as written."""
        jinja: dict[str, str] = {}
        own: set[str] = set()
        for name, text in texts:
            if name.endswith(JINJA_SUFFIXES):
                jinja[name] = text
                continue
            try:
                own |= self._go.add(text, name=name)
            except TemplateFault as fault:
                self.faults.append(fault)
        self._own = frozenset(own)
        self._jinja: JinjaTemplates | None = None
        if jinja:
            from pelton.texttemplate.jinja import JinjaTemplates  # few have any, and the library is large

            self._jinja = JinjaTemplates(jinja, {"translate": functions["translate"]})
            self.faults += self._jinja.faults()
        self.faults += self._go.missing()

    def defines(self, name: str) -> bool:
        """Tell whether the user's texts define a name."""
        return name in self._own or self._is_jinja(name)

    def _is_jinja(self, name: str) -> bool:
        return self._jinja is not None and name in self._jinja.names()

    def has(self, name: str) -> bool:
        """Tell whether a name can be run."""
        return name in self._go.names() or self._is_jinja(name)

    def run(self, template: str, data: Data, *, escape: bool = False) -> str:
        """Return what a template writes, without blanks and line ends behind it.

        Args:
            template: A name, or a text in Go's language.
            data: What it sees.
            escape: Whether values are escaped for HTML.

        Raises:
            TemplateFault: It fails.
        """
        if is_inline(template):
            text = self._inline(template).run("template", data, escape=escape)
        elif self._jinja is not None and template in self._jinja.names():
            text = self._jinja.run(template, jinja_data(data), escape=escape)
        else:
            text = self._go.run(template, data, escape=escape)
        # Halves of a character, which both languages can write, are in no message that can be sent.
        return text.encode(errors="replace").decode().rstrip(" \r\n")

    @functools.lru_cache(maxsize=8)  # noqa: B019 -- a set lives as long as the receivers that use it
    def _inline(self, text: str) -> GoTemplates:
        return self._go.with_text(text, name="template")


NO_TEMPLATES = TemplateSet()
"""The default templates only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How a destination's notifications look.

    Attributes:
        block: Type of the receiver's block.
        receiver: Name of the Receiver.
        format: `text`, `markdown`, `html` or `post`; "" where there is one form only.
        template: Name or text of the template; "" = the default one.
        title: The same for the title or subject.
        templates: Where names are looked up.
        limit: Size of a message's text above which it is split, exclusive; 0 = no limit. Bytes.
        escaped: Whether the size is that of the text as it is written in JSON.
    """

    block: str
    receiver: str = ""
    format: str = ""
    template: str = ""
    title: str = ""
    templates: TemplateSet = NO_TEMPLATES
    limit: int = 0
    escaped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One message.

    Attributes:
        payload: What the Sender takes.
        alerts: How many alerts of the group it has, those of earlier pieces not counted.
        fault: Why it is in plain words instead of the user's template, or None.
    """

    payload: dict[str, Any]
    alerts: int
    fault: TemplateFault | None = None


def render(group: Group, style: Style, *, skip: int = 0) -> list[Piece]:
    """Return the messages of a notification, in order.

    Args:
        group: What to say.
        style: How.
        skip: Alerts at the beginning of the group that were sent already.
    """
    pieces: list[Piece] = []
    rest = group.alerts[skip:]
    guess = len(rest)
    while rest:
        fits = _fitting(group, rest, style, guess)
        piece = _piece(group, rest[: max(fits, 1)], style)
        if not fits:
            piece = replace(piece, payload=shorten(piece.payload, style))
        pieces.append(piece)
        rest = rest[piece.alerts :]
        guess = piece.alerts
    return pieces


def _fitting(group: Group, alerts: Sequence[Alert], style: Style, guess: int) -> int:
    """Return how many alerts fit into one message, 0 when not even the first one does.

    A message grows with its alerts, so that few have to be rendered to find out; `guess` is the first try.
    """
    if not style.limit:
        return len(alerts)
    low, high = 0, len(alerts) + 1  # low fits, high does not
    number = min(max(guess, 1), len(alerts))
    tries = 0
    while True:
        size = _size(_piece(group, alerts[:number], style).payload, style)
        if size < style.limit:
            low = number
        else:
            high = number
        if low == len(alerts) or high - low <= 1:
            return low
        tries += 1
        # By the mean size of an alert, and by halves when alerts are too different for that.
        aim = number * style.limit // max(size, 1) if tries <= _AIMED else (low + high) // 2
        number = min(max(aim, low + 1), high - 1)


def _size(payload: Mapping[str, Any], style: Style) -> int:
    if "post" in payload:
        return len(msgspec.json.encode(payload["post"]))
    return _bytes(str(payload.get("text", "")), escaped=style.escaped)


def _bytes(text: str, *, escaped: bool) -> int:
    return len(msgspec.json.encode(text)) - 2 if escaped else len(text.encode())


def shorten(payload: Mapping[str, Any], style: Style) -> dict[str, Any]:
    """Return a message that is above the style's limit cut to size; rich text becomes plain for that."""
    if not style.limit or _size(payload, style) < style.limit:
        return dict(payload)
    if "post" in payload:
        pages = [page for page in payload["post"].values() if isinstance(page, Mapping)]
        parts = [
            item.get("text", "") for page in pages[:1] for line in page.get("content", ()) for item in line
        ]
        payload = {"text": "\n".join([*(str(page.get("title", "")) for page in pages[:1]), *map(str, parts)])}
    text = str(payload.get("text", ""))
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _bytes(text[:middle] + _MARK, escaped=style.escaped) < style.limit:
            low = middle
        else:
            high = middle - 1
    return {**payload, "text": text[:low].rstrip() + _MARK}


def _piece(group: Group, alerts: Sequence[Alert], style: Style) -> Piece:
    part = group if len(alerts) == len(group.alerts) else replace(group, alerts=list(alerts))
    try:
        return Piece(payload=payload_of(part, style), alerts=len(alerts))
    except TemplateFault as fault:
        return Piece(payload=_plain(part, style, fault), alerts=len(alerts), fault=fault)


def shown(group: Group, style: Style) -> dict[str, Any]:
    """Return one message of a whole group, in plain words where the template fails."""
    return _piece(group, group.alerts, style).payload


def _plain(group: Group, style: Style, fault: TemplateFault) -> dict[str, Any]:
    """Return a message in our own words that says why it is not in the user's."""
    reason = f"(The template of receiver {style.receiver} could not be used: {fault})"
    if style.block == "slack":
        text = f"{plain_words(group)}\n{reason}"
        return _slack(slack_escape(text))
    if style.block == "webhook":
        return webhook_payload(group)
    if style.block == "email":
        payload = email_payload(group)
        payload["text"] += f"\n{reason}\n"
        payload["html"] += f"<p>{slack_escape(reason)}</p>\n"
        return payload
    payload = {"text": f"{plain_words(group)}\n{reason}", "title": cut(title(group), _TITLE)}
    return payload | ({"format": style.format} if style.format in ("text", "markdown") else {})


def payload_of(group: Group, style: Style) -> dict[str, Any]:
    """Return one message of a whole group, whatever its size.

    Raises:
        TemplateFault: A template fails.
    """
    template = style.template
    if not template:
        default = DEFAULT_NAMES.get((style.block, style.format), "")
        if style.block not in _OWN_WORDS or style.templates.defines(default):
            template = default
    named_title = style.title or (SUBJECT if style.templates.defines(SUBJECT) else "")
    if style.block == "webhook":
        if not template or template in _JSON_NAMES:
            return webhook_payload(group)
        return {"raw": _text(group, style, template)}
    if style.block == "email":
        payload = email_payload(group)
        if template:
            payload["html" if style.format != "text" else "text"] = _text(group, style, template)
        if named_title:
            payload["subject"] = cut(" ".join(_text(group, style, named_title, plain=True).split()), _TITLE)
        return payload
    if not template:
        return RENDERERS[style.block](group)
    text = _text(group, style, template)
    if style.block == "slack":
        return _slack(text)
    if style.block == "console":
        return {"text": text}
    if style.format == "post":
        return {"post": _post(text, template)}
    return {
        "text": text,
        "title": cut(_text(group, style, named_title or SUBJECT, plain=True), _TITLE),
        "format": style.format,
    }


def _text(group: Group, style: Style, template: str, *, plain: bool = False) -> str:
    clean: Callable[[str], str] = slack_escape if style.block == "slack" else _same
    data = Data(group, receiver=style.receiver, clean=clean)
    escape = style.block == "email" and style.format != "text" and not plain
    return style.templates.run(template, data, escape=escape)


def _same(text: str) -> str:
    return text


def _slack(text: str) -> dict[str, Any]:
    return {"text": cut(text, _SLACK_TEXT), "blocks": slack_sections(text.splitlines() or [""])}


def _post(text: str, template: str) -> dict[str, Any]:
    try:
        post = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TemplateFault(f"writes no JSON, which a post has to be: {error}", name=template) from None
    pages = post.values() if isinstance(post, dict) else ()
    if not pages or not all(
        isinstance(page, dict) and isinstance(page.get("content"), list) for page in pages
    ):
        raise TemplateFault("writes no post: a locale with title and content is missing", name=template)
    return post  # type: ignore[no-any-return]  # checked above
