"""What a Sender needs to know of a Receiver's block, how its messages look, and how many it takes.

Pure: secrets and ConfigMaps come through callables. `notify/pipeline.py` makes these; files of `drivers/`
read the settings, plain mappings in the contract's field names. They hold secrets: they are never logged and
never put on the bus.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pelton.model.notification import (
    Chatbot,
    ConfigMapKey,
    ConsoleReceiver,
    Credential,
    DingTalkReceiver,
    EmailReceiver,
    FeishuReceiver,
    HttpConfig,
    Receiver,
    SecretRef,
    SlackReceiver,
    TlsConfig,
    WebhookReceiver,
    WeComReceiver,
)
from pelton.model.notification_routing import Config, EmailConfig, NotificationManager
from pelton.notify.limits import DEFAULT_LIMITS, Limit, Rate
from pelton.notify.render import NO_TEMPLATES, Style, TemplateSet, is_inline
from pelton.quantity import parse_duration

__all__ = [
    "CONFIGURED",
    "MISSING",
    "Block",
    "ConfigMapLookup",
    "Outlet",
    "SecretLookup",
    "Templates",
    "blocks_of",
    "channels_of",
    "limit_of",
    "outlet_of",
    "settings_of",
    "style_fault",
]

MISSING = "missing"
"""Key of a sentence that says why nothing can be sent yet; absent when all is there."""

CONFIGURED = ("slack", "email", "dingtalk", "feishu", "wechat")
"""Blocks whose settings are partly in a Config."""

_SHORTEST_LIMIT = 200
_BOT_BYTES = {("wechat", "text"): 2048, ("wechat", "markdown"): 4096, ("dingtalk", ""): 19_960}
_APP_BYTES = {"wechat": 2048, "dingtalk": 5000}
_FEISHU_BYTES = 20 * 1024 - 512  # for what is around the text

Block = (
    SlackReceiver
    | EmailReceiver
    | DingTalkReceiver
    | FeishuReceiver
    | WeComReceiver
    | WebhookReceiver
    | ConsoleReceiver
)
"""One way out of a Receiver."""

SecretLookup = Callable[[SecretRef], str | None]
"""Returns a secret's text, or None while it does not exist."""

ConfigMapLookup = Callable[[ConfigMapKey], Mapping[str, str] | None]
"""Returns a ConfigMap's entries, or the one that is named, by key; None while there are none."""


def blocks_of(receiver: Receiver) -> Iterator[tuple[str, Block]]:
    """Iterate over a receiver's enabled blocks as (name, block)."""
    for name, block in (
        ("slack", receiver.slack),
        ("email", receiver.email),
        ("dingtalk", receiver.dingtalk),
        ("feishu", receiver.feishu),
        ("wechat", receiver.wechat),
        ("webhook", receiver.webhook),
        ("console", receiver.console),
    ):
        if block is not None and block.enabled:
            yield name, block


def settings_of(
    block: Block,
    secret: SecretLookup,
    config: Config | None = None,
    *,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a block's settings with secrets resolved; each Sender says what it reads.

    A secret that does not exist leaves its key out and says so under `MISSING`.

    Args:
        block: The block.
        secret: Resolves secrets.
        config: The Config chosen for it, if any.
        options: Those of the NotificationManager for its type.
    """
    texts = _Texts(secret)
    settings: dict[str, Any] = {}
    chosen = options or {}
    if seconds := chosen.get("notificationTimeout"):
        settings["timeoutS"] = float(seconds)
    if lifetime := chosen.get("tokenExpires"):
        settings["tokenLifetimeS"] = _seconds(lifetime)
    match block:
        case SlackReceiver():
            settings |= _slack(block, config, texts)
        case EmailReceiver():
            settings |= _email(block, config, texts, chosen)
        case WebhookReceiver():
            settings |= _webhook(block, texts)
        case DingTalkReceiver() | FeishuReceiver() | WeComReceiver():
            settings |= _chat(block, config, texts)
    if texts.missing:
        settings[MISSING] = " ".join(texts.missing)
    return settings


def _slack(block: SlackReceiver, config: Config | None, texts: _Texts) -> dict[str, Any]:
    if block.webhook is not None:
        return {"webhook": texts.read(block.webhook)}
    settings: dict[str, Any] = {"channels": list(block.channels), "followUp": block.follow_up or "thread"}
    if config is None or config.slack is None:
        texts.missing.append("No Config with a slack block suits this receiver: channels need a token.")
        return settings
    settings["token"] = texts.read(config.slack.token)
    if config.slack.api_url:
        settings["apiBase"] = config.slack.api_url
    return settings


def _email(
    block: EmailReceiver, config: Config | None, texts: _Texts, options: Mapping[str, Any]
) -> dict[str, Any]:
    settings: dict[str, Any] = {"to": list(block.to), "format": _format(block, options) or "html"}
    if block.cc:
        settings["cc"] = list(block.cc)
    if config is None or config.email is None:
        texts.missing.append("No Config with an email block suits this receiver: mail needs a server.")
        return settings
    return settings | _mail_server(config.email, texts)


def _webhook(block: WebhookReceiver, texts: _Texts) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if block.url:
        settings["url"] = block.url
    elif block.service is not None:
        service = block.service
        settings["service"] = {
            "namespace": service.namespace,
            "name": service.name,
            "path": service.path,
            "port": service.port,
            "scheme": service.scheme or "http",
        }
    if block.http is not None:
        settings["httpConfig"] = _http(block.http, texts)
    return settings


def _chat(
    block: DingTalkReceiver | FeishuReceiver | WeComReceiver, config: Config | None, texts: _Texts
) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if block.chatbot is not None:
        settings["chatbot"] = _chatbot(block.chatbot, texts)
    # What the application lacks does not hold up the bot.
    app = _Texts(texts.lookup)
    match block:
        case DingTalkReceiver(chats=chats) if chats:
            settings |= {"chats": list(chats)} | _dingtalk_app(config, app)
        case FeishuReceiver(users=users, departments=departments) if users or departments:
            settings |= {"users": list(users), "departments": list(departments)} | _feishu_app(config, app)
        case WeComReceiver(users=users, parties=parties, tags=tags) if users or parties or tags:
            targets = {"users": list(users), "parties": list(parties), "tags": list(tags)}
            settings |= targets | _wecom_app(config, app)
    if app.missing and block.chatbot is None:
        texts.missing += app.missing
    elif app.missing:
        settings["appMissing"] = " ".join(app.missing)
    return settings


def _chatbot(bot: Chatbot, texts: _Texts) -> dict[str, Any]:
    return {
        "webhook": texts.read(bot.webhook),
        "secret": texts.read(bot.secret),
        "keywords": list(bot.keywords),
        "atMobiles": list(bot.at_mobiles),
        "atUsers": list(bot.at_users),
        "atAll": bot.at_all,
    }


def _dingtalk_app(config: Config | None, texts: _Texts) -> dict[str, Any]:
    if config is None or config.dingtalk is None:
        texts.missing.append("No Config with a dingtalk block suits this receiver: it needs an application.")
        return {}
    app = config.dingtalk
    return {
        "appKey": texts.read(app.app_key),
        "appSecret": texts.read(app.app_secret),
        "apiBase": app.api_url,
    }


def _feishu_app(config: Config | None, texts: _Texts) -> dict[str, Any]:
    if config is None or config.feishu is None:
        texts.missing.append("No Config with a feishu block suits this receiver: it needs an application.")
        return {}
    app = config.feishu
    return {
        "appId": texts.read(app.app_id),
        "appSecret": texts.read(app.app_secret),
        "apiBase": app.api_url,
    }


def _wecom_app(config: Config | None, texts: _Texts) -> dict[str, Any]:
    if config is None or config.wechat is None:
        texts.missing.append("No Config with a wechat block suits this receiver: it needs an application.")
        return {}
    app = config.wechat
    return {
        "corpId": app.corp_id,
        "agentId": app.agent_id,
        "appSecret": texts.read(app.secret),
        "apiBase": app.api_url,
    }


def channels_of(block: Block) -> list[str]:
    """Return whom a block reaches, as history names them; no address that is a secret is among them."""
    match block:
        case SlackReceiver(channels=channels, webhook=webhook):
            return list(channels) if webhook is None else ["webhook"]
        case EmailReceiver(to=to, cc=cc):
            return [*to, *cc]
        case WebhookReceiver(url=url, service=service):
            if service is not None:
                return [f"{service.namespace}/{service.name}"]
            return [url.split("?")[0].split("//")[-1].split("/")[0].rpartition("@")[2]]
        case DingTalkReceiver(chatbot=bot, chats=chats):
            return [*(["chatbot"] if bot else []), *chats]
        case FeishuReceiver(chatbot=bot, users=users, departments=departments):
            return [*(["chatbot"] if bot else []), *users, *departments]
        case WeComReceiver(chatbot=bot, users=users, parties=parties, tags=tags):
            return [*(["chatbot"] if bot else []), *users, *parties, *tags]
    return ["console"]


# --- how many ---


def limit_of(name: str, block: Block, options: Mapping[str, Any]) -> Limit:
    """Return how hard a destination may be driven.

    Args:
        name: The block's.
        block: The block.
        options: Those of the NotificationManager for its type.
    """
    has_bot = getattr(block, "chatbot", None) is not None
    limit = DEFAULT_LIMITS.get(f"{name} chatbot" if has_bot else name) or Limit()
    throttle = options.get("chatBotThrottle" if has_bot else "conversationThrottle") or {}
    if name != "dingtalk" or not throttle:
        return limit
    (rate,) = limit.rates
    seconds = _seconds(throttle["unit"]) if "unit" in throttle else rate.seconds
    wait_s = _seconds(throttle["maxWaitTime"]) if "maxWaitTime" in throttle else limit.digest_after_s
    return Limit(
        rates=(Rate(throttle.get("threshold") or rate.messages, seconds or rate.seconds),),
        concurrency=limit.concurrency,
        digest_after_s=wait_s,
    )


def _seconds(value: int | str) -> float:
    """Read a duration: text such as `30s`, or nanoseconds."""
    return parse_duration(value) if isinstance(value, str) else value / 1e9


# --- how they look ---


class Templates:
    """Makes the styles of all receivers of one moment.

    Args:
        manager: Whose options and templates count; None = there are none.
        config_map: Returns ConfigMaps.
    """

    def __init__(self, manager: NotificationManager | None, config_map: ConfigMapLookup) -> None:
        self._options = manager.options if manager is not None else {}
        self._config_map = config_map
        template = manager.template if manager is not None else {}
        self._language = str(template.get("language") or "")
        self._missing: list[str] = []
        self._words: dict[str, dict[str, str]] = {}
        for each in template.get("languagePack") or ():
            for name, text in self._texts_of_all(each):
                self._add_words(name, text)
        self._texts_for_all = self._texts_of_all(template["text"]) if template.get("text") else []
        self._sets: dict[tuple[tuple[str, str], ...], TemplateSet] = {}

    def options_of(self, name: str) -> Mapping[str, Any]:
        """Return the options of a type."""
        found = self._options.get(name)
        return found if isinstance(found, Mapping) else {}

    def style_of(self, receiver: str, name: str, block: Block) -> Style:
        """Return how a block's messages look: the receiver's words count most, then options of its type."""
        options = self.options_of(name)
        texts = self._texts_for_all
        if block.template_source is not None:
            texts = [*texts, *self._texts(block.template_source)]
        key = tuple(texts)
        if not (texts or self._language or self._words):
            self._sets[key] = NO_TEMPLATES
        elif key not in self._sets:
            self._sets[key] = TemplateSet(texts, language=self._language, words=self._words)
        form = _format(block, options)
        limit, escaped = _size_limit(name, block, form, options)
        title = getattr(block, "title_template", "") or getattr(block, "subject_template", "")
        return Style(
            block=name,
            receiver=receiver,
            format=form,
            template=block.template
            or str(options.get("template") or "")
            or str(self.options_of("global").get("template") or ""),
            title=title or str(options.get("titleTemplate") or options.get("subjectTemplate") or ""),
            templates=self._sets[key],
            limit=limit,
            escaped=escaped,
        )

    def missing(self, source: ConfigMapKey | None = None) -> list[str]:
        """Return a sentence for each ConfigMap that is not there or cannot be read.

        Args:
            source: A receiver's own, besides those that are for all.
        """
        found = list(self._missing)
        if source is not None and not self._config_map(source):
            found.append(_absent(source))
        return found

    def _texts(self, key: ConfigMapKey) -> list[tuple[str, str]]:
        return sorted((self._config_map(key) or {}).items())

    def _texts_of_all(self, reference: Mapping[str, Any]) -> list[tuple[str, str]]:
        key = _key(reference)
        found = self._texts(key)
        if not found:
            self._missing.append(_absent(key))
        return found

    def _add_words(self, name: str, text: str) -> None:
        """Take up a language pack: a list of `{name, dictionary}` in YAML."""
        try:
            for pack in YAML(typ="safe").load(text):
                words = {str(key).lower(): str(word) for key, word in pack["dictionary"].items()}
                self._words.setdefault(str(pack["name"]).lower(), {}).update(words)
        except (YAMLError, TypeError, KeyError, AttributeError):
            self._missing.append(f"The language pack {name} is no list of names with dictionaries.")


def style_fault(style: Style) -> str:
    """Return what is wrong with a destination's templates, as far as reading them tells, or ""."""
    for template in (style.template, style.title):
        if template and not is_inline(template) and not style.templates.has(template):
            return f"There is no template {template!r}."
    return "; ".join(str(fault) for fault in style.templates.faults[:3])


def _absent(key: ConfigMapKey) -> str:
    place = f"{key.namespace}/{key.name}" if key.namespace else key.name
    return f"ConfigMap {place}{f' with key {key.key}' if key.key else ''} does not exist."


def _key(value: Mapping[str, Any]) -> ConfigMapKey:
    return ConfigMapKey(
        name=str(value.get("name") or ""),
        namespace=str(value.get("namespace") or ""),
        key=str(value.get("key") or ""),
    )


def _format(block: Block, options: Mapping[str, Any]) -> str:
    default = {EmailReceiver: "html", FeishuReceiver: "post", DingTalkReceiver: "text", WeComReceiver: "text"}
    return (
        getattr(block, "format", "") or str(options.get("tmplType") or "") or default.get(type(block), "")
        if type(block) in default
        else ""
    )


def _size_limit(name: str, block: Block, form: str, options: Mapping[str, Any]) -> tuple[int, bool]:
    """Return the bytes of a message's text, exclusive, and whether they are counted as written in JSON."""
    bot: Chatbot | None = getattr(block, "chatbot", None)
    around = 0
    limits: list[int] = []
    if isinstance(block, FeishuReceiver):
        limits.append(_FEISHU_BYTES)
    elif isinstance(block, DingTalkReceiver | WeComReceiver):
        if bot is not None:
            size = options.get("chatbotMessageMaxSize") if name == "dingtalk" else None
            limits.append(size or _BOT_BYTES.get((name, form)) or _BOT_BYTES[name, ""])
        if block.chats if isinstance(block, DingTalkReceiver) else block.users or block.parties or block.tags:
            size = options.get("conversationMessageMaxSize" if name == "dingtalk" else "messageMaxSize")
            limits.append(size or _APP_BYTES[name])
    else:
        return 0, False
    if bot is not None:
        # Keywords and mentions are added to the text.
        around = sum(len(word.encode()) + 4 for word in (*bot.keywords, *bot.at_users, *bot.at_mobiles))
    return max(min(limits, default=_SHORTEST_LIMIT) - around, _SHORTEST_LIMIT), name != "wechat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlet:
    """What a destination is at present.

    Attributes:
        settings: What its Sender reads, secrets resolved; not in the repr.
        style: How its messages look.
        limit: How many it takes.
        channels: Whom it reaches, for history.
        fault: What is known to be wrong with its templates, or "".
    """

    settings: Mapping[str, Any] = field(repr=False)
    style: Style
    limit: Limit
    channels: tuple[str, ...] = ()
    fault: str = ""


def outlet_of(
    receiver: str,
    name: str,
    block: Block,
    *,
    secret: SecretLookup,
    config: Config | None,
    templates: Templates,
) -> Outlet:
    """Return what a receiver's block leads to.

    Args:
        receiver: Name of the Receiver.
        name: The block's.
        block: The block.
        secret: Resolves secrets.
        config: The Config chosen for it, if any.
        templates: Templates and options of the moment.
    """
    options = templates.options_of(name)
    style = templates.style_of(receiver, name, block)
    return Outlet(
        settings=settings_of(block, secret, config, options=options),
        style=style,
        limit=limit_of(name, block, options),
        channels=tuple(channels_of(block)),
        fault=" ".join([*templates.missing(block.template_source), style_fault(style)]).strip(),
    )


# --- secrets ---


def _mail_server(server: EmailConfig, texts: _Texts) -> dict[str, Any]:
    return {
        "from": server.sender,
        "host": server.host,
        "port": server.port,
        "hello": server.hello,
        "username": server.username,
        "identity": server.identity,
        "password": texts.read(server.password),
        "secret": texts.read(server.secret),
        "requireTLS": server.require_tls,
        "tlsConfig": _tls(server.tls, texts) if server.tls is not None else {},
    }


def _tls(tls: TlsConfig, texts: _Texts) -> dict[str, Any]:
    return {
        "rootCA": texts.read(tls.root_ca),
        "clientCertificate": {"cert": texts.read(tls.client_cert), "key": texts.read(tls.client_key)},
        "serverName": tls.server_name,
        "insecureSkipVerify": tls.insecure_skip_verify,
    }


def _http(http: HttpConfig, texts: _Texts) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if http.basic_auth is not None:
        config["basicAuth"] = {
            "username": http.basic_auth.username,
            "password": texts.read(http.basic_auth.password) or "",
        }
    if http.bearer_token is not None:
        config["bearerToken"] = texts.read(http.bearer_token)
    if http.proxy_url:
        config["proxyUrl"] = http.proxy_url
    if http.tls is not None:
        config["tlsConfig"] = _tls(http.tls, texts)
    return config


class _Texts:
    """Reads credentials and collects what was not there."""

    def __init__(self, secret: SecretLookup) -> None:
        self.lookup = secret
        self.missing: list[str] = []

    def read(self, credential: Credential | None) -> str | None:
        if credential is None:
            return None
        if credential.secret is None:
            return credential.value
        text = self.lookup(credential.secret)
        if text is None:
            ref = credential.secret
            place = f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name
            self.missing.append(f"Secret {place} with key {ref.key} does not exist.")
        return text
