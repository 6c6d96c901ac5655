"""Alerts on a whole platform: out of logs by rules, why they go where, and groups that outlive a kill."""

import json
import os
import signal
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytestmark = [pytest.mark.connected, pytest.mark.timeout(120)]

EXAMPLE = Path(__file__).parents[2] / "examples" / "19-log-alerts-kafka" / "log-rule.yaml"
CODE = """
def main(request):
    print("ERROR cannot reach the database")
    return "done"
"""
RULE = """
apiVersion: pelton.dev/v1alpha1
kind: LogRule
metadata: {name: %(name)s, namespace: default}
spec:
  source: {functions: {namespace: default%(function)s}}
  match: text.contains("ERROR")
  groupBy: {function: "topic.split('.')[2]"}
  threshold: %(threshold)d
  resolveAfter: %(quiet)s
"""
RECEIVER = """
apiVersion: notification.kubesphere.io/v2beta2
kind: Receiver
metadata: {name: screen}
spec: {console: {alertSelector: {matchLabels: {alertname: few}}}}
"""
GROUPED = """
apiVersion: notification.kubesphere.io/v2beta2
kind: Receiver
metadata:
  name: screen-grouped
  annotations: {pelton.dev/group-wait: 4s, pelton.dev/group-interval: 1s, pelton.dev/group-by: alertname}
spec: {console: {alertSelector: {matchLabels: {alertname: Killed}}}}
"""


def alerts(platform, name):
    url = platform.endpoints["notify"] + f"/api/v2/alerts?filter=alertname={name}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def why(platform, name, *words):
    asked = name if len(name) == 16 else f"alertname={name}"
    return platform.cli("why", "alert", asked, *words).text


def answered(platform, name):
    text = why(platform, name)
    return text if "sent, attempt 1" in text else ""


def apply(platform, text):
    return platform.cli("apply", "-f", "-", stdin=text)


def test_a_functions_output_becomes_an_alert_that_ends(shared):
    shared.apply("prints", CODE)
    apply(shared, RULE % {"name": "many", "function": "", "threshold": 3, "quiet": "1s"})
    apply(shared, RULE % {"name": "few", "function": ", name: prints", "threshold": 1, "quiet": "10m"})

    def loud():
        shared.request("prints")
        return alerts(shared, "many") and alerts(shared, "few")

    apply(shared, RECEIVER)
    (few,) = shared.until("alerts", loud, every_s=0.2)

    assert few["labels"]["function"] == "prints"
    assert "cannot reach the database" in few["annotations"]["message"]
    shared.until("the end", lambda: not alerts(shared, "many"))
    assert alerts(shared, "few")
    out = shared.until("the answer", lambda: answered(shared, "few"), every_s=0.3)
    assert "screen/console" in out
    assert "sent as it comes" in out
    assert json.loads(why(shared, few["fingerprint"], "-o", "json"))["alerts"][0]["labels"] == few["labels"]
    assert "no such alert is known" in shared.cli("why", "alert", "0123456789abcdef", code=1).text
    assert "would go so" in why(shared, "elsewhere")
    assert "its alertSelector does not match" in why(shared, "elsewhere")
    shared.cli("delete", "logrule", "few")
    shared.until("the end of a rule that is gone", lambda: not alerts(shared, "few"))


def test_a_rule_reads_log_files_by_itself(shared):
    path = shared.root / "web.log"
    path.write_text("ERROR before the rule\n")
    component = {"type": "bindings.logs", "metadata": [{"name": "path", "value": str(path)}]}
    rule = {
        "apiVersion": "pelton.dev/v1alpha1",
        "kind": "LogRule",
        "metadata": {"name": "files", "namespace": "default"},
        "spec": {
            "source": {"component": component},
            "match": 'text.startsWith("ERROR")',
            "groupBy": {"path": "record.path"},
            "threshold": 2,
        },
    }
    apply(shared, json.dumps(rule))

    def loud():
        with path.open("a") as file:
            file.write("ERROR after it\nfine\n")
        return alerts(shared, "files")

    (found,) = shared.until("the alert", loud, every_s=0.3)

    assert found["labels"]["path"] == str(path)
    shared.until("its status", lambda: rule_status(shared, "files") == ("True", "Reading", 1), every_s=0.3)


def test_a_rule_that_cannot_read_says_so_in_its_status(shared):
    metadata = [{"name": "brokers", "secretKeyRef": {"name": "no-such-secret", "key": "brokers"}}]
    component = {"type": "pubsub.kafka", "metadata": metadata}
    rule = {
        "apiVersion": "pelton.dev/v1alpha1",
        "kind": "LogRule",
        "metadata": {"name": "waits", "namespace": "default"},
        "spec": {"source": {"topic": "logs", "component": component}, "match": "true"},
    }

    apply(shared, json.dumps(rule))

    shared.until(
        "its status", lambda: rule_status(shared, "waits") == ("False", "NotConfigured", 0), every_s=0.3
    )
    assert "no-such-secret" in shared.cli("get", "logrule", "waits", "-o", "yaml").text


def rule_status(platform, name):
    found = json.loads(platform.cli("get", "logrule", name, "-o", "json").out).get("status") or {}
    ready: dict[str, str] = next(iter(found.get("conditions") or ()), {})
    return ready.get("status"), ready.get("reason"), found.get("firing")


def test_the_examples_rule_counts_what_comes_by_kafka(shared, kafka):
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.address})
    for number in range(40):
        code = 500 if number % 4 == 0 else 200
        record = {
            "log": f'10.0.0.1 "GET /cart HTTP/1.1" {code} 12\n',
            "time": datetime.now(UTC).isoformat(),
            "kubernetes": {"pod_name": "web-1", "namespace_name": "shop"},
        }
        producer.produce("logs-e2e-rule", json.dumps(record).encode())
    producer.produce("logs-e2e-rule", b"\xff not JSON")
    producer.produce("logs-e2e-rule", None)
    assert producer.flush(30) == 0
    text = EXAMPLE.read_text().replace("${KAFKA_BROKERS}", kafka.address)

    apply(shared, text.replace("topic: logs", "topic: logs-e2e-rule"))

    (found,) = shared.until("the alert", lambda: alerts(shared, "ServerErrors"))
    assert found["labels"] == {
        "alertname": "ServerErrors",
        "cluster": "default",
        "namespace": "shop",
        "pod": "web-1",
        "severity": "critical",
    }
    assert found["annotations"]["message"].startswith("10 server errors of web-1, the last: 10.0.0.1")


def test_a_group_outlives_the_runtime_that_kept_it(shared):
    apply(shared, GROUPED)
    log = shared.home / "logs" / "platform" / "runtime.log"
    body = [{"labels": {"alertname": "Killed", "pod": pod}} for pod in "ab"]
    shared.until("the receiver", lambda: "screen-grouped" in why(shared, "Killed"))
    post(shared, body)
    shared.until("the group", lambda: "2 alerts" in why(shared, "Killed"))

    os.kill(shared.part("runtime")["pid"], signal.SIGKILL)

    told = "[FIRING:2] Killed"
    shared.until("the notification", lambda: told in log.read_text())
    shared.until("the API", lambda: post(shared, body[:1]))
    shared.until("a look after it", lambda: looks(shared) >= 2)
    assert log.read_text().count(told) == 1


def post(platform, body):
    request = urllib.request.Request(
        platform.endpoints["notify"] + "/api/v2/alerts",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status == 200
    except OSError:
        return False


def looks(platform):
    """Return how far the next look at the group is from when it was told, in intervals."""
    (alert, *_) = json.loads(why(platform, "Killed", "-o", "json"))["alerts"]
    (group,) = [each["group"] for each in alert["targets"] if each["group"]]
    moments = [datetime.fromisoformat(group[name]) for name in ("lastTold", "nextLook")]
    return (moments[1] - moments[0]).total_seconds()
