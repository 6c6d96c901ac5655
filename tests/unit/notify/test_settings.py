"""What Senders are told of a receiver's block, how many it takes, and how large its messages may be."""

from __future__ import annotations

import pytest

from pelton.model.notification import (
    Chatbot,
    ConfigMapKey,
    Credential,
    DingTalkReceiver,
    EmailReceiver,
    FeishuReceiver,
    LabelSelector,
    Receiver,
    SecretRef,
    SlackReceiver,
    WebhookReceiver,
    WeComReceiver,
)
from pelton.model.notification_routing import (
    Config,
    DingTalkConfig,
    EmailConfig,
    FeishuConfig,
    NotificationManager,
    SlackConfig,
    WeComConfig,
)
from pelton.notify.limits import Rate
from pelton.notify.settings import (
    MISSING,
    Block,
    Templates,
    blocks_of,
    channels_of,
    limit_of,
    outlet_of,
    settings_of,
)
from pelton.notify.trial import Outlets

SECRETS = {("bot", "url"): "https://bot.example/x", ("app", "secret"): "s3cret"}
BOT = Chatbot(webhook=Credential(secret=SecretRef(name="bot", key="url")), keywords=("alarm",))
APP = Credential(secret=SecretRef(name="app", key="secret"))
KEY = Credential(value="key")


def secret(ref: SecretRef) -> str | None:
    return SECRETS.get((ref.name, ref.key))


def nothing(_: object) -> None:
    return None


@pytest.mark.parametrize(
    ("block", "config", "expected"),
    [
        (
            DingTalkReceiver(chats=("c",)),
            Config(name="c", dingtalk=DingTalkConfig(app_key=KEY, app_secret=APP, api_url="http://d")),
            {"chats": ["c"], "appKey": "key", "appSecret": "s3cret", "apiBase": "http://d"},
        ),
        (
            FeishuReceiver(users=("u",), departments=("d",)),
            Config(name="c", feishu=FeishuConfig(app_id=KEY, app_secret=APP)),
            {"users": ["u"], "departments": ["d"], "appId": "key", "appSecret": "s3cret", "apiBase": ""},
        ),
        (
            WeComReceiver(users=("u",), tags=("t",)),
            Config(name="c", wechat=WeComConfig(corp_id="corp", agent_id="1", secret=APP)),
            {
                "users": ["u"],
                "parties": [],
                "tags": ["t"],
                "corpId": "corp",
                "agentId": "1",
                "appSecret": "s3cret",
                "apiBase": "",
            },
        ),
        (
            SlackReceiver(channels=("#a",)),
            Config(name="c", slack=SlackConfig(token=KEY)),
            {"channels": ["#a"], "followUp": "thread", "token": "key"},
        ),
    ],
)
def test_application_of_the_config_is_told_with_its_secrets(block, config, expected):
    assert settings_of(block, secret, config) == expected


@pytest.mark.parametrize(
    "block",
    [
        DingTalkReceiver(chats=("c",)),
        FeishuReceiver(users=("u",)),
        WeComReceiver(parties=("p",)),
        SlackReceiver(channels=("#a",)),
        EmailReceiver(to=("a@example.org",)),
    ],
)
def test_block_without_a_config_says_so(block):
    assert "suits this receiver" in settings_of(block, secret)[MISSING]


def test_chatbot_goes_on_without_the_application():
    settings = settings_of(WeComReceiver(chatbot=BOT, users=("u",)), secret)

    assert MISSING not in settings
    assert "suits this receiver" in settings["appMissing"]
    assert settings["chatbot"]["webhook"] == "https://bot.example/x"


def test_options_of_the_type_give_times():
    options = {"notificationTimeout": 7, "tokenExpires": 3_600_000_000_000, "maxEmailReceivers": 1}

    assert settings_of(WeComReceiver(chatbot=BOT), secret, options=options)["timeoutS"] == 7.0
    assert settings_of(WeComReceiver(chatbot=BOT), secret, options=options)["tokenLifetimeS"] == 3600.0
    mail_config = Config(name="c", email=EmailConfig(sender="p@e.f", host="mail", port=25))
    mail = settings_of(EmailReceiver(to=("a@b.c", "d@e.f")), secret, mail_config, options=options)
    assert MISSING not in mail  # its addresses are those of one mail, and each has a mail of its own


@pytest.mark.parametrize(
    ("block", "channels"),
    [
        (SlackReceiver(webhook=KEY), ["webhook"]),
        (SlackReceiver(channels=("#a",)), ["#a"]),
        (EmailReceiver(to=("a",), cc=("b",)), ["a", "b"]),
        (WebhookReceiver(url="https://user:pw@x.example/secret?key=1"), ["x.example"]),
        (DingTalkReceiver(chatbot=BOT, chats=("c",)), ["chatbot", "c"]),
        (FeishuReceiver(users=("u",), departments=("d",)), ["u", "d"]),
        (WeComReceiver(chatbot=BOT, users=("u",), parties=("p",), tags=("t",)), ["chatbot", "u", "p", "t"]),
    ],
)
def test_channels_are_names_without_secrets(block, channels):
    assert channels_of(block) == channels


@pytest.mark.parametrize(
    ("name", "block", "rates"),
    [
        ("dingtalk", DingTalkReceiver(chatbot=BOT), (Rate(20, 60.0),)),
        ("dingtalk", DingTalkReceiver(chats=("c",)), (Rate(25, 1.0),)),
        ("feishu", FeishuReceiver(chatbot=BOT), (Rate(100, 60.0), Rate(5, 1.0))),
        ("wechat", WeComReceiver(chatbot=BOT), (Rate(20, 60.0),)),
        ("wechat", WeComReceiver(users=("u",)), ()),
        ("slack", SlackReceiver(channels=("#a",)), (Rate(1, 1.0),)),
        ("webhook", WebhookReceiver(url="http://x"), ()),
    ],
)
def test_limits_are_those_of_the_provider(name, block, rates):
    limit = limit_of(name, block, {})

    assert limit.rates == rates
    assert (limit.digest_after_s is None) == (name == "webhook")


def test_throttles_of_the_manager_replace_dingtalks_limits():
    throttle = {"threshold": 5, "unit": "30s", "maxWaitTime": 2_000_000_000}

    bot = limit_of("dingtalk", DingTalkReceiver(chatbot=BOT), {"chatBotThrottle": throttle})
    chats = limit_of("dingtalk", DingTalkReceiver(chats=("c",)), {"conversationThrottle": {"threshold": 3}})

    assert (bot.rates, bot.digest_after_s) == ((Rate(5, 30.0),), 2.0)
    assert (chats.rates, chats.digest_after_s) == ((Rate(3, 1.0),), 10.0)


@pytest.mark.parametrize(
    ("name", "block", "options", "limit", "escaped"),
    [
        ("wechat", WeComReceiver(chatbot=Chatbot(webhook=KEY)), {}, 2048, False),
        ("wechat", WeComReceiver(chatbot=Chatbot(webhook=KEY), format="markdown"), {}, 4096, False),
        ("wechat", WeComReceiver(users=("u",)), {"messageMaxSize": 500}, 500, False),
        ("dingtalk", DingTalkReceiver(chatbot=Chatbot(webhook=KEY)), {}, 19_960, True),
        ("dingtalk", DingTalkReceiver(chatbot=Chatbot(webhook=KEY), chats=("c",)), {}, 5000, True),
        ("dingtalk", DingTalkReceiver(chatbot=BOT), {"chatbotMessageMaxSize": 1000}, 1000 - 9, True),
        ("feishu", FeishuReceiver(users=("u",)), {}, 19_968, True),
        ("slack", SlackReceiver(channels=("#a",)), {}, 0, False),
    ],
)
def test_sizes_are_those_of_the_narrowest_way(name, block, options, limit, escaped):
    manager = NotificationManager(name="m", options={name: options})

    style = Templates(manager, nothing).style_of("r", name, block)

    assert (style.limit, style.escaped) == (limit, escaped)


def test_template_of_the_receiver_counts_most_then_its_types_then_everybodys():
    manager = NotificationManager(
        name="m",
        options={
            "global": {"template": "all"},
            "email": {"template": "mail", "subjectTemplate": "subject", "tmplType": "text"},
        },
    )
    made = Templates(manager, nothing)

    assert made.style_of("r", "email", EmailReceiver(template="own")).template == "own"
    mail = made.style_of("r", "email", EmailReceiver())
    assert (mail.template, mail.title, mail.format) == ("mail", "subject", "text")
    assert made.style_of("r", "slack", SlackReceiver()).template == "all"


def test_words_of_language_packs_are_read_and_broken_ones_told():
    entries = {
        "words": {"de.yaml": "- name: German\n  dictionary: {firing: BRENNT}\n", "bad.yaml": "- 5"},
    }
    manager = NotificationManager(
        name="m", template={"language": "german", "languagePack": [{"name": "words"}, {"name": "none"}]}
    )
    made = Templates(manager, lambda ref: entries.get(ref.name))

    style = made.style_of(
        "r", "console", next(iter(blocks_of(Receiver(name="r", wechat=WeComReceiver()))))[1]
    )

    assert style.templates is not None
    assert made.missing() == [
        "The language pack bad.yaml is no list of names with dictionaries.",
        "ConfigMap none does not exist.",
    ]
    assert made.missing(ConfigMapKey(name="own", namespace="ns", key="k"))[-1] == (
        "ConfigMap ns/own with key k does not exist."
    )


GLOBAL, TENANT, DEFAULT = {"type": "global"}, {"type": "tenant", "user": "ann"}, {"type": "default"}
MANAGER = NotificationManager(
    name="m",
    tenant_key="user",
    global_selector=GLOBAL,
    tenant_selector={"type": "tenant"},
    config_selector=LabelSelector(match_labels=DEFAULT),
)
MAKERS = {
    "slack": lambda name: SlackConfig(token=Credential(value=name)),
    "email": lambda name: EmailConfig(sender=name, host="h", port=25),
    "dingtalk": lambda name: DingTalkConfig(app_key=Credential(value=name), app_secret=KEY),
    "feishu": lambda name: FeishuConfig(app_id=Credential(value=name), app_secret=KEY),
    "wechat": lambda name: WeComConfig(corp_id=name, agent_id="1", secret=KEY),
}
BLOCKS: dict[str, tuple[Block, str]] = {
    "slack": (SlackReceiver(channels=("#a",)), "token"),
    "email": (EmailReceiver(to=("a@b.c",)), "from"),
    "dingtalk": (DingTalkReceiver(chats=("c",)), "appKey"),
    "feishu": (FeishuReceiver(users=("u",)), "appId"),
    "wechat": (WeComReceiver(users=("u",)), "corpId"),
}


@pytest.mark.parametrize("name", sorted(MAKERS))
@pytest.mark.parametrize(
    ("labels", "chosen"),
    [(GLOBAL, "default"), (TENANT, "tenant"), ({"type": "tenant", "user": "bob"}, "default")],
)
def test_config_is_chosen_by_owner_for_every_type(name, labels, chosen):
    configs = [
        Config(name=key, labels=own, **{name: MAKERS[name](key)})  # type: ignore[arg-type]
        for key, own in (
            ("default", {**DEFAULT, "priority": "1"}),
            ("tenant", TENANT),
            ("late", {**DEFAULT, "priority": "9"}),
        )
    ]
    block, field = BLOCKS[name]
    outlets = Outlets(configs, MANAGER, secret=secret, config_map=nothing)

    outlet = outlets.outlet(Receiver(name="r", labels=labels), name, block)

    assert outlet.settings[field] == chosen


def test_outlet_shows_no_secret():
    outlet = outlet_of(
        "r",
        "wechat",
        WeComReceiver(chatbot=BOT),
        secret=secret,
        config=None,
        templates=Templates(None, nothing),
    )

    assert "bot.example" not in repr(outlet)
