"""Pod (core v1), read only: the instances of functions, as `kubectl get pods` and `kubectl logs` show them.

Pure but for `with_log`, which adds the subresource that `cli/` reads logs for. Who mirrors instances into
the store is `cli/pods.py`; the objects live in memory only.

Source: behaviour of Kubernetes' `pods/log`; contracts operator-webhook.md 6.1.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from starlette.responses import StreamingResponse
from starlette.types import ASGIApp

from pelton.apiserver.builtin.core import AGE
from pelton.apiserver.builtin.shapes import array, boolean, integer, keyed, kind, struct, text
from pelton.apiserver.calls import Call
from pelton.apiserver.registry import Row, Subresource
from pelton.apiserver.rules import Obj
from pelton.apiserver.status import RefusedError
from pelton.apiserver.store import ObjectStore
from pelton.errors import ProtocolError
from pelton.manifest.kinds import Column

__all__ = ["CONTAINER", "FUNCTION", "KEY", "POD", "REVISION", "LogRequest", "ReadLog", "pod", "with_log"]

KEY = "pods"
"""The store's name of them."""

CONTAINER = "function"
"""The one container of every pod."""

FUNCTION = "openfunction.io/function"
"""Label: name of the Function."""

REVISION = "pelton.dev/revision"
"""Label: the revision that the instance runs."""

_CONDITION = struct(
    "One observation.",
    {
        "lastTransitionTime": text("When status changed last.", form="date-time"),
        "status": text("True or False."),
        "type": text("Which observation."),
    },
)
_STATUS = struct(
    "One container as it is.",
    {
        "image": text("Function and revision."),
        "imageID": text("The revision."),
        "name": text("Always `function`."),
        "ready": boolean("Whether it takes requests."),
        "restartCount": integer("Instances are never restarted, others take their place."),
        "started": boolean("Whether its code is loaded."),
        "state": {"type": "object", "description": "running or waiting."},
    },
)
_SCHEMA = kind(
    "One instance of a function: a worker process. Read only.",
    {
        "spec": struct(
            "What runs.",
            {
                "containers": keyed(
                    "The process.",
                    struct(
                        "The process.",
                        {"image": text("Function and revision."), "name": text("Always `function`.")},
                        required=("name",),
                    ),
                    "name",
                ),
                "nodeName": text("This machine."),
                "restartPolicy": text("Never."),
            },
        ),
        "status": struct(
            "How it is.",
            {
                "conditions": keyed("Observations.", _CONDITION, "type"),
                "containerStatuses": array("The process as it is.", _STATUS),
                "hostIP": text("Address of this machine."),
                "phase": text("Pending or Running."),
                "qosClass": text("BestEffort."),
                "startTime": text("When it was seen first.", form="date-time"),
            },
        ),
    },
)
POD = Row(
    group="",
    version="v1",
    kind="Pod",
    plural="pods",
    singular="pod",
    short_names=("po",),
    categories=("all",),
    generation=False,
    builtin=True,
    columns=(
        Column("Ready", "ready", ".status.containerStatuses"),
        Column("Status", "phase", ""),
        Column("Restarts", "integer", ".status.containerStatuses[0].restartCount"),
        AGE,
        Column("IP", "optional", ".status.podIP", 1),
        Column("Node", "string", ".spec.nodeName", 1),
    ),
    schema=_SCHEMA,
    verbs=("get", "list", "watch"),
    selectable={
        "status.phase": ".status.phase",
        "spec.nodeName": ".spec.nodeName",
        "spec.restartPolicy": ".spec.restartPolicy",
        "status.podIP": ".status.podIP",
    },
)


def pod(
    *, namespace: str, function: str, instance: str, revision: str, state: str, node: str, seen: str, pid: int
) -> Obj:
    """Return the Pod of an instance.

    Args:
        namespace: Of the Function.
        function: Name of the Function.
        revision: What of it runs.
        instance: Its id, the pod's name.
        state: starting, ready or draining.
        node: Name of this machine.
        seen: When it was seen first, RFC 3339.
        pid: Its process id.
    """
    ready = state == "ready"
    image = f"{function}:{revision}"
    yes = "True" if ready else "False"
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": instance,
            "namespace": namespace,
            "labels": {FUNCTION: function, REVISION: revision},
            "annotations": {"pelton.dev/pid": str(pid)},
        },
        "spec": {
            "containers": [{"name": CONTAINER, "image": image}],
            "nodeName": node,
            "restartPolicy": "Never",
        },
        "status": {
            "phase": "Pending" if state == "starting" else "Running",
            "conditions": [
                {"type": kind_, "status": value, "lastTransitionTime": seen}
                for kind_, value in (("PodScheduled", "True"), ("ContainersReady", yes), ("Ready", yes))
            ],
            "containerStatuses": [
                {
                    "name": CONTAINER,
                    "image": image,
                    "imageID": revision,
                    "ready": ready,
                    "restartCount": 0,
                    "started": state != "starting",
                    "state": {"waiting": {"reason": "Starting"}}
                    if state == "starting"
                    else {"running": {"startedAt": seen}},
                }
            ],
            "hostIP": "127.0.0.1",
            "qosClass": "BestEffort",
            "startTime": seen,
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """What of a log is asked for.

    Attributes:
        namespace, function, instance: Whose.
        follow: Whether new lines are sent until the instance is gone.
        tail: Only that many of the last lines, None for all.
        since_s: Only lines of the last seconds; 0 for all.
        since_time: Only lines from then on, RFC 3339; "" for all.
        timestamps: Whether each line begins with its time.
        limit_bytes: Most bytes sent, 0 for no limit.
    """

    namespace: str
    function: str
    instance: str
    follow: bool
    tail: int | None
    since_s: int
    since_time: str
    timestamps: bool
    limit_bytes: int


ReadLog = Callable[[LogRequest], AsyncIterator[bytes]]
"""Yields the log in pieces; the caller closes it when the client leaves."""


def with_log(row: Row, store: ObjectStore, read: ReadLog) -> Row:
    """Return the row with `pods/log`."""

    async def answer(call: Call) -> ASGIApp:
        entry = store.entry(call.key, call.namespace, call.name)
        container = call.query("container")
        if container and container != CONTAINER:
            raise ProtocolError(f"container {container} is not valid for pod {call.name}")
        if call.flag("previous"):
            raise RefusedError(
                f'previous terminated container "{CONTAINER}" in pod "{call.name}" not found',
                status=400,
                hint="Instances are not restarted; lines of past ones: pelton logs.",
            )
        request = LogRequest(
            namespace=call.namespace,
            function=entry.labels[FUNCTION],
            instance=call.name,
            follow=call.flag("follow"),
            tail=call.number("tailLines") if call.query("tailLines") else None,
            since_s=call.number("sinceSeconds"),
            since_time=call.query("sinceTime"),
            timestamps=call.flag("timestamps"),
            limit_bytes=call.number("limitBytes"),
        )
        return StreamingResponse(read(request), media_type="text/plain")

    log = Subresource(name="log", kind="Pod", verbs=("get",), answer=answer)
    return replace(row, subresources=(log,))
