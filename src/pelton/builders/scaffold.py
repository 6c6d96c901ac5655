"""The files of a new function: source, manifest, requirements, README; pure text for `cli/init.py` to write.

Every manifest is complete, so that `run`, `deploy` and `apply` take the directory as it is. The short
window lets a newcomer watch the function go back to zero within 15 seconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from pelton.errors import UsageError

__all__ = ["TRIGGERS", "scaffold"]

TRIGGERS: Final = ("http", "cloudevent", "topic")
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DEFAULT_CONVENTION: Final = {"http": "openfunction", "cloudevent": "gcf", "topic": "openfunction"}

_SOURCES: Final[Mapping[tuple[str, str], str]] = {
    ("openfunction", "http"): """\
from functions_framework.context.user_context import UserContext


def hello(context: UserContext):
    request = context.get_http_request()
    name = request.args.get("name", "world")
    print(f"hello, {name}")
    return f"Hello, {name}!\\n"
""",
    ("openfunction", "topic"): """\
import json

from functions_framework.context.user_context import UserContext


def handle(context: UserContext):
    event = context.get_topic_event()
    if event is None:
        return "This function takes events from a topic.\\n"
    print(f"got {json.loads(event.Data())} from {event.Source()}")
""",
    ("gcf", "http"): """\
import functions_framework


@functions_framework.http
def hello(request):
    name = request.args.get("name", "world")
    print(f"hello, {name}")
    return f"Hello, {name}!\\n"
""",
    ("gcf", "cloudevent"): """\
import functions_framework


@functions_framework.cloud_event
def handle(event):
    print(f"got {event['type']} from {event['source']}: {event.data}")
""",
}
_SOURCES_SHARED: Final = {("gcf", "topic"): ("gcf", "cloudevent")}


def scaffold(name: str, trigger: str, convention: str = "") -> dict[str, str]:
    """Return the files of a new function, relative path -> text.

    Args:
        name: The function's name, a DNS label.
        trigger: One of TRIGGERS.
        convention: Name of the convention; "" takes the usual one for the trigger.

    Raises:
        UsageError: A name or trigger that cannot be, or a convention that has no such trigger.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a function name",
            hint="Use lower-case letters, digits and dashes, at most 63, beginning and ending with no dash.",
        )
    if trigger not in TRIGGERS:
        raise UsageError(f"there is no trigger {trigger!r}", hint=f"Known triggers: {', '.join(TRIGGERS)}.")
    convention = convention or _DEFAULT_CONVENTION[trigger]
    wanted = (convention, trigger)
    source = _SOURCES.get(_SOURCES_SHARED.get(wanted, wanted))
    if source is None:
        able = sorted({c for c, t in (*_SOURCES, *_SOURCES_SHARED) if t == trigger})
        raise UsageError(
            f"convention {convention!r} has no trigger {trigger!r}",
            hint=f"It is there for: {', '.join(able)}.",
        )
    target = "handle" if "def handle" in source else "hello"
    return {
        "main.py": source,
        "function.yaml": _manifest(name, trigger, convention, target),
        "requirements.txt": "# Packages that the function imports, one a line.\n",
        "README.md": _readme(name, trigger),
    }


def _manifest(name: str, trigger: str, convention: str, target: str) -> str:
    signature = (
        "openfunction" if convention == "openfunction" else ("http" if trigger == "http" else "cloudevent")
    )
    serving = (
        f"""\
    triggers:
      dapr:
        - name: events
          type: pubsub.jetstream
          topic: {name}
    pubsub:
      events:
        # Without natsURL this is the platform's own bus.
        type: pubsub.jetstream
        version: v1
        metadata: []
"""
        if trigger == "topic"
        else """\
    triggers:
      http:
        port: 8080
"""
    )
    return f"""\
apiVersion: core.openfunction.io/v1beta2
kind: Function
metadata:
  name: {name}
spec:
  version: v1.0.0
  image: localhost/{name}:latest
  build:
    builder: pelton
    env:
      FUNC_NAME: {target}
      FUNC_SRC: main.py
      FUNC_TYPE: {signature}
    srcRepo:
      url: .
  serving:
{serving}    scaleOptions:
      minReplicas: 0
      maxReplicas: 10
      knative:
        # Seconds of quiet after which instances leave; the usual value is 60s.
        autoscaling.knative.dev/window: 6s
"""


def _readme(name: str, trigger: str) -> str:
    event = (
        "curl -X POST http://127.0.0.1:8080/ -H 'ce-id: 1' -H 'ce-source: test' -H 'ce-type: test' "
        "-H 'ce-specversion: 1.0' \\\n  -H 'content-type: application/json' -d '{\"hello\": \"world\"}'"
    )
    alone = event if trigger == "cloudevent" else "curl 'http://127.0.0.1:8080/?name=you'"
    through = {
        "http": f"pelton invoke {name}",
        "cloudevent": f"pelton invoke {name} -H 'ce-id: 1' -H 'ce-source: test' -H 'ce-type: test' "
        "-H 'ce-specversion: 1.0' -d '{}'",
        "topic": f'pelton topic publish {name} -d \'{{"hello": "world"}}\'',
    }[trigger]
    return f"""\
# {name}

By itself, no platform:

```
pelton run .
{alone}
```

On the platform (`pelton up` in another terminal):

```
pelton apply -f . --wait
{through}
pelton logs {name}
```
"""
