"""Reads log records as they come, and turns each request that was not found into an alert."""

import json
import re
from datetime import datetime, timezone

from functions_framework.context.user_context import UserContext

REQUEST = re.compile(r'"([A-Z]+) (/\S*) HTTP')


def handle_logs(context: UserContext):
    """Take one record in the shape that Fluent Bit writes into Kafka."""
    record = json.loads(context.get_topic_event().Data())
    line = record["log"]
    if " 404 " not in line:
        return
    method, path = REQUEST.search(line).groups()
    source = record["kubernetes"]
    print(f"found: {method} {path} in {source['pod_name']}")
    labels = {
        "alertname": "404 Request",
        "namespace": source["namespace_name"],
        "severity": "warning",
        "pod": source["pod_name"],
        "path": path,
        "method": method,
    }
    common = {key: labels[key] for key in ("alertname", "namespace", "severity")}
    alert = {
        "receiver": "notification_manager",
        "status": "firing",
        "groupLabels": {key: labels[key] for key in ("alertname", "namespace")},
        "commonLabels": common,
        "commonAnnotations": {},
        "externalURL": "",
        "alerts": [
            {
                "status": "firing",
                "labels": labels,
                "annotations": {"message": f"{method} {path} was not found"},
                "startsAt": datetime.now(timezone.utc).isoformat(),
                "endsAt": "0001-01-01T00:00:00Z",
            }
        ],
    }
    context.send("notify", json.dumps(alert))
