"""Blocks of Receivers and Configs for DingTalk, Feishu and WeCom, and those of types that nothing is sent by.

`manifest/notification` has the Receiver that these blocks are in, `manifest/notification_routing` the Config.
Pelton's extensions: `dingtalkApiUrl` and `feishuApiUrl` in a Config, where `wechatApiUrl` is the original's.
Source: contracts, log and notification, sections 4.3 and 4.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pelton.manifest.fields import (
    AnyValue,
    Boolean,
    Field,
    Items,
    Kept,
    Mapped,
    Problem,
    Record,
    Text,
    describe,
)
from pelton.manifest.notification_fields import (
    CREDENTIAL,
    SELECTOR,
    SHARED,
    TextOrCredential,
    credential_problems,
    selector_problems,
    url_problems,
)
from pelton.model import notification as model
from pelton.model import notification_routing as routing
from pelton.model.notification import Receiver

__all__ = [
    "DINGTALK",
    "DINGTALK_CONFIG",
    "FEISHU",
    "FEISHU_CONFIG",
    "UNDELIVERED",
    "UNDELIVERED_CONFIGS",
    "WECHAT",
    "WECHAT_CONFIG",
    "chat_problems",
    "config_problems",
    "undelivered_problems",
]

_TEXT = Text()
_TEXTS = Items(_TEXT)
_NAME = Text(min_length=1)
_MOST_IDS = 200
_SOUNDS = (
    "pushover bike bugle cashregister classical cosmic falling gamelan incoming intermission magic "
    "mechanical pianobar siren spacealarm tugboat alien climb persistent echo updown vibrate none"
)


def _kept(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    """Return fields for a block that stays as written: the attribute is the name in the manifest."""
    return tuple(each._replace(attr=each.json) for each in fields)


_BOT_ADDRESS = Field(
    "webhook", "webhook", TextOrCredential(), required=True, doc="Address of the bot, itself a secret."
)
_BOT_SECRET = Field("secret", "secret", CREDENTIAL, doc="Signs messages.")
_BOT_KEYWORDS = Field("keywords", "keywords", _TEXTS, doc="Words, one of which a message must have.")
_AT_USERS = Field("atUsers", "at_users", _TEXTS, doc="Ids of members to mention.")
_AT_MOBILES = Field("atMobiles", "at_mobiles", _TEXTS, doc="Telephone numbers of members to mention.")

# --------------------------------------------------------------------------------------------------- Receiver


class _Chats(Record):
    """The conversations, `{chatids}` in the manifest and a tuple in the model."""

    def encode(self, value: Any) -> Any:
        """Write the object."""
        return {"chatids": list(value)}


def _chats(chatids: tuple[str, ...] = ()) -> tuple[str, ...]:
    return chatids


DINGTALK = Record(
    model.DingTalkReceiver,
    (
        *SHARED,
        Field("dingtalkConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field(
            "chatbot",
            "chatbot",
            Record(
                model.Chatbot,
                (
                    _BOT_ADDRESS,
                    _BOT_KEYWORDS,
                    _BOT_SECRET,
                    _AT_MOBILES,
                    _AT_USERS,
                    Field("atAll", "at_all", Boolean(), doc="Mention everybody; default false."),
                ),
            ),
            doc="A bot of a group.",
        ),
        Field(
            "conversation",
            "chats",
            _Chats(
                _chats,
                (Field("chatids", "chatids", Items(_TEXT), required=True, doc="Ids of conversations."),),
            ),
            doc="Conversations, by the application of a Config.",
        ),
        Field("titleTemplate", "title_template", _TEXT, doc="Template of the title of markdown."),
        Field("tmplType", "format", Text(choices=("text", "markdown")), doc="Form; default text."),
    ),
)
"""Block `dingtalk` of a Receiver."""

FEISHU = Record(
    model.FeishuReceiver,
    (
        *SHARED,
        Field("feishuConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("user", "users", Items(_TEXT, max_items=_MOST_IDS), doc="Ids of users."),
        Field("department", "departments", Items(_TEXT, max_items=_MOST_IDS), doc="Ids of departments."),
        Field(
            "chatbot",
            "chatbot",
            Record(model.Chatbot, (_BOT_ADDRESS, _BOT_KEYWORDS, _BOT_SECRET)),
            doc="A bot of a group.",
        ),
        Field("tmplType", "format", Text(choices=("text", "post")), doc="Form; default post."),
    ),
)
"""Block `feishu` of a Receiver."""

WECHAT = Record(
    model.WeComReceiver,
    (
        *SHARED,
        Field("wechatConfigSelector", "config_selector", SELECTOR, doc="Which Configs apply."),
        Field("toUser", "users", _TEXTS, doc="Ids of members."),
        Field("toParty", "parties", _TEXTS, doc="Ids of departments."),
        Field("toTag", "tags", _TEXTS, doc="Ids of tags."),
        Field(
            "chatbot",
            "chatbot",
            Record(model.Chatbot, (_BOT_ADDRESS, _AT_USERS, _AT_MOBILES)),
            doc="A bot of a group.",
        ),
        Field("tmplType", "format", Text(choices=("text", "markdown")), doc="Form; default text."),
    ),
)
"""Block `wechat` of a Receiver."""

_CHAT_WAYS = {
    "dingtalk": ("chatbot", "conversation"),
    "feishu": ("user", "department", "chatbot"),
    "wechat": ("toUser", "toParty", "toTag", "chatbot"),
}


def chat_problems(receiver: Receiver) -> Iterator[Problem]:
    """Yield the rules that the blocks dingtalk, feishu and wechat break."""
    for name, ways in _CHAT_WAYS.items():
        block = getattr(receiver, name)
        if block is None:
            continue
        path = f"spec.{name}"
        yield from selector_problems(f"{path}.{name}ConfigSelector", block.config_selector)
        if isinstance(block, model.DingTalkReceiver):
            targets = block.chats
        elif isinstance(block, model.FeishuReceiver):
            targets = (*block.users, *block.departments)
        else:
            targets = (*block.users, *block.parties, *block.tags)
        if not targets and block.chatbot is None:
            yield Problem(path, f"at least one of {', '.join(ways)} is required")
        if block.chatbot is not None:
            bot, where = block.chatbot, f"{path}.chatbot"
            yield from credential_problems(f"{where}.webhook", bot.webhook)
            if bot.webhook is not None and bot.webhook.value:
                yield from url_problems(f"{where}.webhook", bot.webhook.value, secret=True)
            yield from credential_problems(f"{where}.secret", bot.secret)


# ----------------------------------------------------------------------------------------------------- Config

_LABELS = Field("labels", "labels", Mapped(_TEXT), doc="Further labels.")


def _dingtalk_config(conversation: dict[str, Any] | None = None, **values: Any) -> routing.DingTalkConfig:
    return routing.DingTalkConfig(**(conversation or {}), **values)


class _DingTalkConfigRecord(Record):
    """The application, whose keys are an object of their own in the manifest."""

    def encode(self, value: Any) -> Any:
        """Write the nested form."""
        keys = {"appkey": value.app_key, "appsecret": value.app_secret}
        written: dict[str, Any] = {"labels": value.labels} if value.labels else {}
        written["conversation"] = {
            name: CREDENTIAL.encode(key) for name, key in keys.items() if key is not None
        }
        return written | ({"dingtalkApiUrl": value.api_url} if value.api_url else {})


DINGTALK_CONFIG = _DingTalkConfigRecord(
    _dingtalk_config,
    (
        _LABELS,
        Field(
            "conversation",
            "conversation",
            Record(
                dict,
                (
                    Field("appkey", "app_key", CREDENTIAL, required=True, doc="Key of the application."),
                    Field("appsecret", "app_secret", CREDENTIAL, required=True, doc="Its secret."),
                ),
            ),
            doc="An application that posts to conversations.",
        ),
        Field(
            "dingtalkApiUrl",
            "api_url",
            _TEXT,
            doc="Address of the API without the method; default https://oapi.dingtalk.com.",
        ),
    ),
)
"""Block `dingtalk` of a Config."""

FEISHU_CONFIG = Record(
    routing.FeishuConfig,
    (
        _LABELS,
        Field("appID", "app_id", CREDENTIAL, required=True, doc="Id of the application."),
        Field("appSecret", "app_secret", CREDENTIAL, required=True, doc="Its secret."),
        Field(
            "feishuApiUrl",
            "api_url",
            _TEXT,
            doc="Address of the open platform, e.g. Lark's; default https://open.feishu.cn.",
        ),
    ),
)
"""Block `feishu` of a Config."""

WECHAT_CONFIG = Record(
    routing.WeComConfig,
    (
        _LABELS,
        Field(
            "wechatApiUrl",
            "api_url",
            _TEXT,
            doc="Address of the API without the method; default https://qyapi.weixin.qq.com/cgi-bin/.",
        ),
        Field("wechatApiCorpId", "corp_id", _NAME, required=True, doc="Id of the company."),
        Field("wechatApiAgentId", "agent_id", _NAME, required=True, doc="Id of the application."),
        Field("wechatApiSecret", "secret", CREDENTIAL, required=True, doc="Its secret."),
    ),
)
"""Block `wechat` of a Config."""


def config_problems(config: routing.Config) -> Iterator[Problem]:
    """Yield the rules that the blocks of a Config break; those of slack and email are known elsewhere."""
    for name, keys in _KEPT_CREDENTIALS.items():
        block = _mapping(config.unused.get(name))
        for key in keys:
            yield from _kept_credential(f"spec.{name}.{key}", block.get(key))
    sms = _mapping(config.unused.get("sms"))
    default, providers = sms.get("defaultProvider"), _mapping(sms.get("providers"))
    if isinstance(default, str) and default in _PROVIDERS and not providers.get(default):
        yield Problem(f"spec.sms.providers.{default}", "required: it is the default provider")
    for name, parts in _PROVIDER_KEYS.items():
        for key in parts:
            where = f"spec.sms.providers.{name}.{key}"
            yield from _kept_credential(where, _mapping(providers.get(name)).get(key))
    if config.dingtalk is not None:
        where = "spec.dingtalk.conversation"
        yield from credential_problems(f"{where}.appkey", config.dingtalk.app_key)
        yield from credential_problems(f"{where}.appsecret", config.dingtalk.app_secret)
        yield from _api_url("spec.dingtalk.dingtalkApiUrl", config.dingtalk.api_url)
    if config.feishu is not None:
        yield from credential_problems("spec.feishu.appID", config.feishu.app_id)
        yield from credential_problems("spec.feishu.appSecret", config.feishu.app_secret)
        yield from _api_url("spec.feishu.feishuApiUrl", config.feishu.api_url)
    if config.wechat is not None:
        yield from credential_problems("spec.wechat.wechatApiSecret", config.wechat.secret)
        yield from _api_url("spec.wechat.wechatApiUrl", config.wechat.api_url)


def _api_url(path: str, url: str) -> Iterator[Problem]:
    if url:
        yield from url_problems(path, url)


# ------------------------------------------------------------------------------ types that nothing is sent by

_SHARED_KEPT = _kept(SHARED)


def _block(*fields: Field) -> Kept:
    return Kept((*_SHARED_KEPT, *_kept(fields)))


def _raw(name: str, shape: AnyValue, doc: str, *, required: bool = False) -> Field:
    return Field(name, name, shape, required=required, doc=doc)


UNDELIVERED: Mapping[str, Kept] = {
    "discord": _block(
        _raw("webhook", CREDENTIAL, "Address of the webhook.", required=True),
        _raw("type", Text(choices=("content", "embed")), "Form."),
        _raw("mentionedUsers", _TEXTS, "Ids of users to mention."),
        _raw("mentionedRoles", _TEXTS, "Ids of roles to mention."),
    ),
    "pushover": _block(
        _raw("pushoverConfigSelector", SELECTOR, "Which Configs apply."),
        _raw(
            "profiles",
            Items(
                Kept(
                    (
                        _raw(
                            "userKey",
                            Text(r"[A-Za-z0-9]{30}", "30 letters and digits"),
                            "User.",
                            required=True,
                        ),
                        _raw(
                            "devices",
                            Items(Text(r"[A-Za-z0-9_-]{1,25}", "up to 25 letters, digits, _ and -")),
                            "Devices.",
                        ),
                        _raw("title", _TEXT, "Title; older form of titleTemplate."),
                        _raw("sound", Text(choices=tuple(_SOUNDS.split())), "Sound."),
                    )
                ),
                min_items=1,
            ),
            "Who gets it.",
            required=True,
        ),
        _raw("titleTemplate", _TEXT, "Template of the title."),
    ),
    "sms": _block(
        _raw("smsConfigSelector", SELECTOR, "Which Configs apply."),
        _raw(
            "phoneNumbers",
            Items(Text(r"(\+)?(\d+)", "a telephone number"), min_items=1),
            "Telephone numbers.",
            required=True,
        ),
    ),
    "telegram": _block(
        _raw("telegramConfigSelector", SELECTOR, "Which Configs apply."),
        _raw("channels", Items(_TEXT, min_items=1), "Channels.", required=True),
        _raw("mentionedUsers", _TEXTS, "Users to mention."),
    ),
}
"""Type -> shape of its block in a Receiver."""

_PROVIDERS = {
    "aliyun": ("signName", "templateCode"),
    "tencent": ("sign", "templateID", "smsSdkAppid"),
    "huawei": ("url", "signature", "templateId", "sender"),
    "aws": ("region",),
}
_PROVIDER_KEYS = {
    "aliyun": ("accessKeyId", "accessKeySecret"),
    "tencent": ("secretId", "secretKey"),
    "huawei": ("appSecret", "appKey"),
    "aws": ("accessKeyId", "secretAccessKey"),
}
_LABELS_KEPT = _raw("labels", Mapped(_TEXT), "Further labels.")

UNDELIVERED_CONFIGS: Mapping[str, Kept] = {
    "pushover": Kept(
        (_LABELS_KEPT, _raw("pushoverTokenSecret", CREDENTIAL, "Token of the application.", required=True))
    ),
    "sms": Kept(
        (
            _LABELS_KEPT,
            _raw("defaultProvider", Text(choices=tuple(_PROVIDERS)), "Which provider."),
            _raw(
                "providers",
                Kept(
                    tuple(
                        _raw(
                            name,
                            Kept(
                                (
                                    *(_raw(each, _TEXT, "As the provider says.") for each in texts),
                                    *(
                                        _raw(each, CREDENTIAL, "As the provider says.")
                                        for each in _PROVIDER_KEYS[name]
                                    ),
                                )
                            ),
                            f"For {name}.",
                        )
                        for name, texts in _PROVIDERS.items()
                    )
                ),
                "Providers of short messages.",
                required=True,
            ),
        )
    ),
    "telegram": Kept(
        (_LABELS_KEPT, _raw("telegramTokenSecret", CREDENTIAL, "Token of the bot.", required=True))
    ),
    "webhook": Kept((_LABELS_KEPT,)),
}
"""Type -> shape of its block in a Config."""


_KEPT_CREDENTIALS = {"pushover": ("pushoverTokenSecret",), "telegram": ("telegramTokenSecret",)}


def _mapping(written: Any) -> Mapping[str, Any]:
    """Return an object as written, or an empty one in place of what is none: its type is complained of."""
    return written if isinstance(written, Mapping) else {}


def _kept_credential(path: str, written: Any) -> Iterator[Problem]:
    if isinstance(written, Mapping):
        value, source = written.get("value"), _mapping(written.get("valueFrom"))
        yield from credential_problems(
            path,
            model.Credential(
                value=value, secret=model.SecretRef(name="", key="") if source.get("secretKeyRef") else None
            ),
        )


def undelivered_problems(blocks: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield the rules that blocks kept as written break."""
    yield from _kept_credential("spec.discord.webhook", _mapping(blocks.get("discord")).get("webhook"))
    for name, block in blocks.items():
        for key in ("alertSelector", f"{name}ConfigSelector"):
            selector = _mapping(_mapping(block).get(key))
            if isinstance(listed := selector.get("matchExpressions"), list):
                for index, item in enumerate(listed):
                    pattern = item.get("regexValue", "") if isinstance(item, dict) else ""
                    if not _compiles(pattern):
                        yield Problem(
                            f"spec.{name}.{key}.matchExpressions[{index}].regexValue",
                            f"is no regular expression: {describe(pattern)}",
                        )


def _compiles(pattern: Any) -> bool:
    try:
        model.compile_pattern(str(pattern))
    except ValueError:
        return False
    return True
