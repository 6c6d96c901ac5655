"""What decides where alerts go, read and written again."""

from typing import Any

import pytest

from pelton.manifest import notification_routing as routing

SPECS: dict[str, dict[str, Any]] = {
    "NotificationManager": {
        "replicas": 1,
        "batchMaxSize": 5,
        "receivers": {
            "tenantKey": "user",
            "globalReceiverSelector": {"matchLabels": {"type": "global"}},
            "tenantReceiverSelector": {"matchLabels": {"type": "tenant"}},
            "options": {"global": {"cluster": "east"}, "email": {"notificationTimeout": 5}},
        },
        "defaultConfigSelector": {"matchLabels": {"type": "default"}},
        "defaultSecretNamespace": "alerts",
        "groupLabels": ["alertname"],
        "routePolicy": "RouterOnly",
    },
    "Config": {
        "slack": {"slackTokenSecret": {"value": "t"}, "slackApiUrl": "http://127.0.0.1/api"},
        "email": {
            "from": "a@example.org",
            "smartHost": {"host": "mail", "port": 25},
            "authUsername": "u",
            "authPassword": {"value": "p"},
            "requireTLS": True,
            "tls": {"serverName": "mail.example"},
        },
        "feishu": {"appID": {"value": "x"}, "appSecret": {"value": "y"}},
    },
    "Router": {
        "alertSelector": {"matchLabels": {"a": "b"}},
        "receivers": {"name": ["x"], "channels": [{"tenant": "shop", "type": ["slack"]}]},
    },
    "Silence": {
        "matcher": {"matchLabels": {"a": "b"}},
        "startsAt": "2026-01-02T03:04:05+01:00",
        "schedule": "@daily",
        "duration": "90m",
    },
}
VERBS: dict[str, Any] = {
    verbs.kind: verbs
    for verbs in (routing.NOTIFICATION_MANAGER, routing.CONFIG, routing.ROUTER, routing.SILENCE)
}


@pytest.mark.parametrize("kind", SPECS)
def test_encode_gives_back_what_decode_read(kind):
    verbs = VERBS[kind]
    obj = {
        "apiVersion": "notification.kubesphere.io/v2beta2",
        "kind": kind,
        "metadata": {"name": "x", "labels": {"type": "global"}},
        "spec": SPECS[kind],
    }
    model, _ = verbs.decode(obj)

    assert verbs.validate(obj) == []
    assert verbs.decode(verbs.encode(model))[0] == model
