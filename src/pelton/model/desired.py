"""Desired state: what the planner wants on a target, in the target-neutral words of design decision 2.

Made by `plan/`, compared by `plan/diff`, rendered by `targets/`. Sent between processes as they are (msgspec
encodes dataclasses), so every field is plain data. All are frozen; equality is by value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pelton.model.dapr_app import DaprApp
from pelton.model.limits import Limits
from pelton.model.routing import Rule
from pelton.model.scaler import ScalerTrigger
from pelton.model.scaling import HttpScaling, JobScaling, KedaPolicy

__all__ = [
    "DEFERRED_NAME",
    "QUEUE_TYPE",
    "EVENTS_PER_JOB",
    "BATCH_SIZE",
    "BuildRun",
    "Component",
    "Desired",
    "OutputBinding",
    "Route",
    "ScaledBy",
    "Scaling",
    "StateBinding",
    "Subscription",
    "Workload",
    "revision_key",
]


QUEUE_TYPE = "queue"
"""Component type of a subscription without a broker: the platform itself fills its retry stream."""

DEFERRED_NAME = "pelton-deferred"
"""Name of the subscription and the component of invocations that a function accepted for later."""
EVENTS_PER_JOB: Final = "events-per-job"
"""Option of a workload that runs as jobs: how many events an instance takes before it ends."""


BATCH_SIZE = 256
"""Events that go to a worker together at most, unless a Function says otherwise."""


def revision_key(namespace: str, name: str, revision: str) -> str:
    """Return `namespace/name:revision`, by which one of several revisions of a function is asked for."""
    return f"{namespace}/{name}:{revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRun:
    """A build that has to have happened before the workload can run.

    Attributes:
        source_url: `file:` URL of the source directory.
        sub_path: Directory inside it, relative; "" for the root.
        env: FUNC_NAME, FUNC_SRC, FUNC_TYPE and the rest of spec.build.env.
        timeout_s: Seconds for the whole build; 0 for the builder's default.
    """

    source_url: str
    sub_path: str = ""
    env: dict[str, str] = field(default_factory=dict)
    timeout_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One revision of a function: everything that changes its process.

    Attributes:
        namespace, name: The Function's.
        revision: `<name>-<10 hex>`; names the content of all other fields.
        bundle: Absolute path of the source snapshot.
        environment: Absolute path of the site-packages directory of its environment; "" for none.
        convention: Name in the convention table, e.g. `openfunction`, `gcf`.
        source: Source file relative to the bundle, e.g. `main.py`.
        target: Function name in it; "" to let the convention find it.
        signature: Signature type; "" to let the convention decide.
        env: Environment variables of the process.
        context: Function context (merged form of the OpenFunction contract, section 8.3).
        concurrency: Hard limit of concurrent invocations per instance; 0 for none.
        request_timeout_s: Seconds per invocation; 0 for none.
        body_limit_bytes: Largest request body.
        options: How its convention serves it, see `LoadRequest.options`.
        limits: What an instance may take of the machine.
    """

    namespace: str
    name: str
    revision: str
    bundle: str
    environment: str = ""
    convention: str = ""
    source: str = "main.py"
    target: str = ""
    signature: str = ""
    env: dict[str, str] = field(default_factory=dict)
    context: dict[str, Any] = field(default_factory=dict)
    concurrency: int = 0
    request_timeout_s: float = 300.0
    body_limit_bytes: int = 32 * 1024 * 1024
    options: dict[str, str] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledBy:
    """An object that scales a Function instead of its own options, e.g. `HTTPScaledObject default/web`.

    Attributes:
        owner: Kind, namespace and name of the object.
        policy: How intercepted requests scale it; None when triggers alone do.
        triggered: How triggers that scalers read scale it; None when requests alone do.
        scalers: Those triggers.
    """

    owner: str
    policy: HttpScaling | None = None
    triggered: KedaPolicy | None = None
    scalers: tuple[ScalerTrigger, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How many instances a function may have and what drives the number.

    Attributes:
        min_replicas, max_replicas: Inclusive bounds; max 0 means no bound.
        initial_scale: Instances right after a revision becomes ready.
        activation_scale: Instances that the first traffic after zero asks for at least; 1 for no such floor.
        algorithm: What decides for requests: `kpa`, `hpa`, or `keda-http` (then by `http`); `keda` when there
            are none, and waiting events alone decide.
        metric: `concurrency` or `rps`; for `hpa` also `cpu` or `memory`.
        target: Concurrent invocations, or requests per second, per instance, before `utilization`; for `hpa`
            percent of `request` for `cpu`, bytes for `memory`.
        utilization: Fraction of `target` to fill, 0 < u <= 1.
        request: For `hpa` and triggers on `cpu`: cores that 100 percent stand for.
        memory_request: For triggers on `memory`: bytes that 100 percent stand for; 0 when nobody says.
        window_s: Stable window, seconds (6 to 3600).
        panic_window_percentage: Panic window as percent of the stable window.
        panic_threshold_percentage: Panic when the panic window wants this percent of the ready instances.
        max_scale_up_rate, max_scale_down_rate: Factors per decision, > 1.
        scale_down_delay_s: Seconds during which the highest wanted number is kept.
        retention_s: Seconds the last instance is kept after traffic ended.
        target_burst_capacity: Concurrency to have in reserve before requests go past the activator; 0 lets
            them do so as soon as an instance is ready, -1 never.
        aggregation: `linear` or `weighted-exponential`.
        lag_threshold: Pending events per instance.
        activation_lag_threshold: More pending events than this wake a function at zero.
        cooldown_s: Seconds without pending events before event-driven instances go to `min_replicas`.
        keda: How waiting events scale when the Function has a ScaledObject's settings; None for Pelton's own
            pace. Bounds and thresholds are those above.
        http: How requests scale by KEDA's HTTP add-on; None for another algorithm.
        triggered: How triggers that scalers read scale it, with stand-ins for targets; None for no triggers.
        jobs: How it runs as jobs, which take the place of all other rules; None for long-lived instances.
        own_pace: Whether `triggered` follows its values at Pelton's own pace, for nobody wrote another one.
        spare_instances: Instances on top of what is asked for, while anything is.
        hold_s: Seconds that a number is kept after it was last asked for; covers every step down.
        owner: Kind, namespace and name of the object that `http` or `triggered` comes from; "" for the
            Function itself.
    """

    min_replicas: int = 0
    max_replicas: int = 10
    initial_scale: int = 0
    activation_scale: int = 1
    algorithm: str = "kpa"
    metric: str = "concurrency"
    target: float = 100.0
    utilization: float = 0.7
    request: float = 1.0
    memory_request: float = 0.0
    window_s: float = 60.0
    panic_window_percentage: float = 10.0
    panic_threshold_percentage: float = 200.0
    max_scale_up_rate: float = 1000.0
    max_scale_down_rate: float = 2.0
    scale_down_delay_s: float = 0.0
    retention_s: float = 0.0
    target_burst_capacity: float = 0.0
    aggregation: str = "linear"
    lag_threshold: float = 10.0
    activation_lag_threshold: float = 0.0
    cooldown_s: float = 60.0
    keda: KedaPolicy | None = None
    http: HttpScaling | None = None
    triggered: KedaPolicy | None = None
    jobs: JobScaling | None = None
    own_pace: bool = False
    spare_instances: int = 0
    hold_s: float = 0.0
    owner: str = ""

    @property
    def goes_by_usage(self) -> bool:
        """Whether it needs to know what instances use of processor and memory."""
        triggers = self.triggered.triggers if self.triggered is not None else ()
        return self.metric in ("cpu", "memory") or any(one.is_resource for one in triggers)

    @property
    def handed(self) -> KedaPolicy | None:
        """The policy of the object that scales it; None for none."""
        if not self.owner:
            return None
        if self.triggered is not None:
            return self.triggered
        return self.http.keda if self.http is not None else None

    @property
    def idle_replicas(self) -> int | None:
        """Instances while nothing is active, fewer than the minimum; None where the minimum stays."""
        keda = self.handed
        return keda.idle_replicas if keda is not None else None

    @property
    def is_paused(self) -> bool:
        """Whether annotations hold the number, wherever it is."""
        keda = self.handed
        return keda is not None and (keda.paused or keda.paused_replicas is not None)

    @property
    def is_asleep(self) -> bool:
        """Whether nothing may be started where no instance is."""
        keda = self.handed
        return keda is not None and (keda.paused or keda.paused_out or keda.paused_replicas == 0)

    @property
    def floor(self) -> int:
        """Instances that there are whatever the load; the HPA never goes to zero."""
        keda = self.handed
        if keda is not None:
            if keda.paused_replicas is not None:
                return keda.paused_replicas
            if keda.force_active and not (keda.paused or keda.paused_out):
                return max(1, self.min_replicas)
            if keda.paused or keda.idle_replicas is not None:
                return keda.idle_replicas or 0
        return max(1, self.min_replicas) if self.algorithm == "hpa" else self.min_replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """How requests reach a function.

    Attributes:
        namespace, name: The Function's.
        hosts: Host names without port, lower case.
        path: Path prefix on any other host, e.g. `/default/hello`; "" for none.
        fronts: Regular expressions (RE2) over whole paths that reach it on any other host, the path kept.
        h2c: Whether the function speaks HTTP/2 itself.
        timeout_s: End-to-end limit at the gateway; 0 for none.
        split: (key, weight) of the revisions that share the traffic, weights 1 to 100 with the sum 100; empty
            sends all to `namespace/name`. A key is `namespace/name:revision`: the name of its cluster, and
            what the gateway tells the activator for it.
        tags: (tag, key) of revisions with an address of their own: requests with the header
            `Knative-Serving-Tag: <tag>`, and to the host `<tag>-<host>` for each of `hosts`. Each tag is
            there once; its key may or may not be in `split`.
        h2c_keys: Those keys of `split` and `tags` whose revision speaks HTTP/2 itself.
        internal: Whether only clients inside may reach it: no external host or address.
        internal_hosts: Further hosts, for clients inside only.
        rules: Rules of the route as its user wrote them, whose backends are not looked at: all go to the
            function. Empty: one rule for every path.
        created: RFC 3339 time of the Function; the older of two equal routes wins.
        https_only: Whether plain HTTP on the external port is sent to https.
    """

    namespace: str
    name: str
    hosts: tuple[str, ...] = ()
    path: str = ""
    fronts: tuple[str, ...] = ()
    h2c: bool = False
    timeout_s: float = 300.0
    split: tuple[tuple[str, int], ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    h2c_keys: tuple[str, ...] = ()
    internal: bool = False
    internal_hosts: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    created: str = ""
    https_only: bool = False

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"

    @property
    def revision_keys(self) -> tuple[str, ...]:
        """Keys of all revisions that get traffic or have a tag, each once; empty while there is one."""
        return tuple(dict.fromkeys([*(key for key, _ in self.split), *(key for _, key in self.tags)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """A Dapr component, secrets resolved.

    Attributes:
        namespace, name: The Component's, or the Function's namespace and logical name when declared inline.
        type: e.g. `pubsub.jetstream`.
        version: e.g. `v1`.
        metadata: Key -> value as text. May hold secrets: never logged.
    """

    namespace: str
    name: str
    type: str
    version: str = "v1"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """Events that drive a function.

    Attributes:
        namespace, function: The Function's.
        name: Trigger name as the manifest has it, i.e. the component's logical name.
        input_name: Name the function knows it by.
        component: Where events come from.
        topic: Topic for pub/sub components, "" for bindings.
        options: Metadata of its own, which brokers take over those of the component.
        max_attempts: Function outcomes before the event becomes a dead letter, >= 1.
        backoff_s: Wait before the second attempt, seconds.
        max_backoff_s: Upper bound of that wait, seconds.
        backoff_growth: What each further wait is multiplied by, >= 1.
        backoff_spread: Share by which a wait is shorter or longer at random, 0 to 1.
        max_in_flight: Unacknowledged events held at once.
        ordering: Where the broker keeps an order: `partition` (an event waits for the outcome of the one
            before it), `key` (only for that of its own key) or `none`.
        consumer: Name under which brokers know it, as Dapr's `consumerID`; "" for the function's app id.
        batch_size: Events that go to a worker together at most, >= 1.
        linger_s: Seconds to wait for more events when fewer than that are there.
        dead_letters: Ids of subscriptions whose queues get the event when it is given up, in place of the
            dead letters that `pelton dlq` lists.
    """

    namespace: str
    function: str
    name: str
    input_name: str
    component: Component
    topic: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    max_attempts: int = 5
    backoff_s: float = 0.5
    max_backoff_s: float = 60.0
    backoff_growth: float = 2.0
    backoff_spread: float = 0.0
    max_in_flight: int = 1000
    ordering: str = "partition"
    consumer: str = ""
    batch_size: int = BATCH_SIZE
    linger_s: float = 0.0
    dead_letters: tuple[str, ...] = ()

    @property
    def deferred(self) -> bool:
        """Whether it carries out what the function itself accepted for later."""
        return self.name == DEFERRED_NAME

    @property
    def queued(self) -> bool:
        """Whether there is no broker to read: the platform puts events into its retry stream."""
        return self.component.type == QUEUE_TYPE

    @property
    def id(self) -> str:
        """`namespace.function.name[.topic]`, unique and stable: names durable consumers and dead letters."""
        parts = [self.namespace, self.function, self.name] + ([self.topic] if self.topic else [])
        return ".".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputBinding:
    """Where a function may send.

    Attributes:
        name: Output name as the function uses it.
        component: Destination.
        topic: Topic for pub/sub components, else "".
        operation: Binding operation, else "".
        metadata: Request metadata of the manifest.
    """

    name: str
    component: Component
    topic: str = ""
    operation: str = ""
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StateBinding:
    """A state store that a function may use.

    Attributes:
        name: Name of the state as the function uses it.
        component: The store.
        prefix: What stands before every key of this function in the store, `||` included; "" for nothing.
    """

    name: str
    component: Component
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """Everything one Function needs on a target.

    Attributes:
        workload: The revision to run.
        scaling: Its bounds and drivers.
        route: How HTTP reaches it; None when it has no HTTP trigger.
        subscriptions: Events that drive it; may be empty.
        outputs: Where it may send; may be empty.
        states: State stores that it may use, the default one first; may be empty.
        scalers: Triggers that are read for it; may be empty. Those of `others` are not read.
        partial: (field path, sentence) for each field that this target accepts but cannot honour.
        aliases: (address as written, address that it stands for) in its components.
        dapr: The app of Dapr that it is; None for none.
        others: Further revisions that share the traffic or have a tag. They have no subscriptions, for events
            go to one revision, and no others.
    """

    workload: Workload
    scaling: Scaling
    route: Route | None = None
    subscriptions: tuple[Subscription, ...] = ()
    outputs: tuple[OutputBinding, ...] = ()
    states: tuple[StateBinding, ...] = ()
    scalers: tuple[ScalerTrigger, ...] = ()
    partial: tuple[tuple[str, str], ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    others: tuple[Desired, ...] = ()
    dapr: DaprApp | None = None

    @property
    def revision(self) -> str:
        """Name of the revision."""
        return self.workload.revision
