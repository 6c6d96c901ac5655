"""The status of each kind, as tables: what controllers write and users read. For schemas only.

Status is the platform's own and is not checked on the way in; these tables say what may be found there.
`manifest/kinds` names them, `manifest/schema` turns them into schemas. Source: contracts, OpenFunction 2.5,
2.6 and 5, autoscaling 1.1 and 5.1.
"""

from __future__ import annotations

from pelton.manifest.fields import AnyValue, Boolean, Field, Integer, Items, Kept, Mapped, Text

__all__ = [
    "BUILDER",
    "CONDITIONS",
    "LOG_RULE",
    "EVENTS",
    "FUNCTION",
    "GATEWAY",
    "HTTP_SCALED_OBJECT",
    "KAFKA_TOPIC",
    "SCALED_JOB",
    "SCALED_OBJECT",
    "SERVING",
    "TRIGGER_AUTHENTICATION",
]

Table = tuple[Field, ...]

_TEXT = Text()
_NAMES = Mapped(_TEXT)


def _text(name: str, doc: str) -> Field:
    return Field(name, name, _TEXT, doc=doc)


def _number(name: str, doc: str) -> Field:
    return Field(name, name, Integer(), doc=doc)


_CONDITION = Kept(
    (
        Field("type", "type", _TEXT, required=True, doc="What it is about."),
        Field(
            "status",
            "status",
            Text(choices=("True", "False", "Unknown")),
            required=True,
            doc="Whether it holds.",
        ),
        _text("reason", "Why, in one word."),
        _text("message", "Why, in a sentence."),
        _text("lastTransitionTime", "When status changed last."),
        Field("observedGeneration", "observedGeneration", Integer(), doc="Generation it is about."),
    )
)
_CONDITIONS = Field("conditions", "conditions", Items(_CONDITION), doc="What holds and what does not.")
CONDITIONS: Table = (_number("observedGeneration", "Generation that this is about."), _CONDITIONS)
"""For kinds that have conditions only."""

KAFKA_TOPIC: Table = (
    *CONDITIONS,
    _text("topicName", "Name of the topic in Kafka."),
    _text("topicId", "The topic's id in Kafka."),
)
EVENTS: Table = (
    _number("observedGeneration", "Generation that this is about."),
    Field(
        "conditions",
        "conditions",
        Items(
            Kept(
                (
                    _text("timestamp", "When it became so."),
                    _text("type", "Pending, Created, Ready, Error, Unknown, Terminating or Terminated."),
                    _text("status", "True, False or Unknown."),
                    _text("reason", "Why, in one word."),
                    _text("message", "Why, in a sentence."),
                )
            )
        ),
        doc="What has happened to it, the latest last.",
    ),
)
"""For kinds of the event framework: conditions are a history."""

_PHASE = Kept(
    (
        _text(
            "state", "Created, Building, Starting, Running, Succeeded, Failed, Skipped, Timeout or Canceled."
        ),
        _text("reason", "Why, in one word."),
        _text("message", "Why, in a sentence, with the end of the log."),
        _text("resourceRef", "Builder or Serving that this is about."),
        _text("lastSuccessfulResourceRef", "The last one that succeeded."),
        _text("resourceHash", "Hash of what was built or served."),
        _text("service", "Service behind which the function runs."),
        _text("revision", "Revision that is served."),
        _text("buildDuration", "How long the build took."),
    )
)
_SOURCES = Field(
    "sources",
    "sources",
    Items(
        Kept(
            (
                _text("name", "Name of the source."),
                Field(
                    "git",
                    "git",
                    Kept(
                        (
                            _text("commitSha", "Commit."),
                            _text("commitAuthor", "Its author."),
                            _text("branchName", "Its branch."),
                        )
                    ),
                    doc="Commit that was built.",
                ),
                Field(
                    "bundle", "bundle", Kept((_text("digest", "Its digest."),)), doc="Bundle that was built."
                ),
            )
        )
    ),
    doc="What was built.",
)
FUNCTION: Table = (
    _number("observedGeneration", "Generation that this is about."),
    Field("build", "build", _PHASE, doc="How the build stands."),
    Field("serving", "serving", _PHASE, doc="How the serving stands."),
    Field(
        "addresses",
        "addresses",
        Items(Kept((_text("type", "Internal or External."), _text("value", "URL.")))),
        doc="Where the function is reached.",
    ),
    Field(
        "route",
        "route",
        Kept(
            (
                Field("hosts", "hosts", Items(_TEXT), doc="Host names."),
                Field(
                    "paths",
                    "paths",
                    Items(Kept((_text("type", "How it matches."), _text("value", "Path.")))),
                    doc="Paths.",
                ),
                _CONDITIONS,
            )
        ),
        doc="Requests that reach it.",
    ),
    Field(
        "revision",
        "revision",
        Kept((_text("imageDigest", "Digest of the build."),)),
        doc="The last good build.",
    ),
    _SOURCES,
    Field("traffic", "traffic", Items(AnyValue()), doc="Shares and tags of revisions."),
    Field("rollout", "rollout", AnyValue(), doc="How far a new revision has come."),
    _CONDITIONS,
)
BUILDER: Table = (
    _text("phase", "Build."),
    _text("state", "Empty, Building, Succeeded, Failed, Timeout or Canceled."),
    _text("reason", "Why, in one word."),
    _text("message", "Why, in a sentence."),
    _text("buildDuration", "How long it took."),
    Field("resourceRef", "resourceRef", _NAMES, doc="What was made for it."),
    Field(
        "output",
        "output",
        Kept((_text("digest", "Digest."), Field("size", "size", AnyValue(), doc="Size, bytes."))),
        doc="What came out.",
    ),
    _SOURCES,
)
SERVING: Table = (
    _text("phase", "Serving."),
    _text("state", "Starting, Running, Failed or Timeout."),
    _text("reason", "Why, in one word."),
    _text("message", "Why, in a sentence."),
    Field("resourceRef", "resourceRef", _NAMES, doc="What was made for it."),
    _text("url", "Name of the Service."),
)
GATEWAY: Table = (
    Field(
        "addresses",
        "addresses",
        Items(Kept((_text("type", "IPAddress or Hostname."), _text("value", "Address.")))),
        doc="Where it is reached.",
    ),
    _CONDITIONS,
    Field(
        "listeners",
        "listeners",
        Items(
            Kept(
                (
                    _text("name", "Name of the listener."),
                    Field("supportedKinds", "supportedKinds", Items(AnyValue()), doc="Kinds of routes."),
                    _number("attachedRoutes", "Routes that are attached."),
                    _CONDITIONS,
                )
            )
        ),
        doc="How each listener stands.",
    ),
)

# ------------------------------------------------------------------------------------------------------- KEDA

_ACTIVITY = (
    _text("lastActiveTime", "When a trigger was active last."),
    _CONDITIONS,
    _text("triggersTypes", "Types of its triggers."),
    _text("authenticationsTypes", "Kinds of authentication of its triggers."),
    Field(
        "triggersActivity",
        "triggersActivity",
        Mapped(Kept((Field("isActive", "isActive", Boolean(), doc="Whether it is."),))),
        doc="Metric -> whether it is active.",
    ),
)
SCALED_OBJECT: Table = (
    _text("scaleTargetKind", "Version and kind of the target."),
    Field(
        "scaleTargetGVKR",
        "scaleTargetGVKR",
        Kept(tuple(_text(name, "Of the target.") for name in ("group", "version", "kind", "resource"))),
        doc="Names of the target.",
    ),
    _number("originalReplicaCount", "Instances that were found at first."),
    *_ACTIVITY,
    Field("externalMetricNames", "externalMetricNames", Items(_TEXT), doc="Metrics of triggers."),
    Field("resourceMetricNames", "resourceMetricNames", Items(_TEXT), doc="cpu and memory."),
    _text("compositeScalerName", "Metric of the formula."),
    Field(
        "health",
        "health",
        Mapped(
            Kept((_number("numberOfFailures", "Failures in a row."), _text("status", "Happy or Failing.")))
        ),
        doc="Metric -> whether it can be read.",
    ),
    _number("pausedReplicaCount", "Instances while it is paused."),
    _text("hpaName", "Name of its HorizontalPodAutoscaler."),
)
SCALED_JOB: Table = _ACTIVITY
TRIGGER_AUTHENTICATION: Table = (
    _text("scaledobjects", "ScaledObjects that use it."),
    _text("scaledjobs", "ScaledJobs that use it."),
)
LOG_RULE: Table = (*CONDITIONS, _number("firing", "Alerts of it that fire."))
HTTP_SCALED_OBJECT: Table = (
    _text("targetWorkload", "What is scaled."),
    _text("targetService", "Where requests go."),
    _CONDITIONS,
)
