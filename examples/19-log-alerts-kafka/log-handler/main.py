"""Reads container logs from Kafka, in the form that Fluent Bit writes, and turns server errors into alerts."""

import json
import re
from datetime import datetime, timezone

from functions_framework.context.user_context import UserContext

REQUEST = re.compile(r'"([A-Z]+) (/\S*) HTTP/[0-9.]+" (\d{3})')


def handle_logs(context: UserContext):
    """Take one record; what is no JSON object, or no line of an access log, is nobody's error."""
    try:
        record = json.loads(context.get_binding_request().data)
        line, source = record["log"], record["kubernetes"]
    except (ValueError, KeyError, TypeError):
        return
    found = REQUEST.search(line)
    if found is None or not found[3].startswith("5"):
        return
    method, path, code = found.groups()
    labels = {
        "alertname": "ServerError",
        "namespace": source["namespace_name"],
        "severity": "critical",
        "pod": source["pod_name"],
    }
    alert = {
        "labels": labels,
        "annotations": {"message": f"{method} {path} was answered {code}"},
        "startsAt": datetime.now(timezone.utc).isoformat(),
    }
    context.send("notification-manager", json.dumps([alert]))
    context.send("errors", json.dumps({"pod": source["pod_name"], "path": path}))
