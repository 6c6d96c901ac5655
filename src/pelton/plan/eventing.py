"""Components that a Function refers to, and the subscriptions and outputs that come of them.

A logical name is looked up in serving.bindings, serving.pubsub, serving.states, then among the standalone
Components of the namespace; an explicit `type` on the reference decides the type (contracts, OpenFunction,
section 8.1). Called by `plan/function`. Pure: secrets and environment come in as mappings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pelton.model.component import ComponentResource, ComponentSpec
from pelton.model.convention import DEFERRED
from pelton.model.dapr_app import DaprPorts
from pelton.model.desired import DEFERRED_NAME, Component, OutputBinding, ScaledBy, Subscription
from pelton.model.function import DaprInput, DaprOutput, DaprTrigger, Function, Serving
from pelton.model.openfunction_gateway import OpenFunctionGateway
from pelton.model.scaler import ScalerTrigger
from pelton.plan import names
from pelton.plan.aliases import NO_ALIASES, Aliases, Renamed
from pelton.plan.problem import Problem

__all__ = [
    "Facts",
    "Link",
    "component_names",
    "deferred",
    "input_links",
    "links",
    "outputs",
    "secret_names",
    "state_links",
    "stored_secret_names",
    "subscriptions",
    "useful_events",
]

_TRIGGERS = "spec.serving.triggers.dapr"
_OUTPUTS = "spec.serving.outputs"
_INPUTS = "spec.serving.triggers.inputs"
_STATES = "spec.serving.states"
_PLATFORM = ("", "kubernetes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the planner is told about the world around one Function.

    Attributes:
        components: Standalone Components of the Function's namespace, by name.
        secrets: (Secret name, key) -> value, of the Function's namespace.
        stored: (secret store, secret, key) -> value, of stores that Components name by `auth.secretStore`.
        variables: Environment variables that `envRef` may name.
        trigger_types: Component types that can drive a function here; None = unknown, nothing is refused.
        output_types: Component types that a function can send to here; None as above.
        state_types: Component types that can keep state here; None as above.
        gateway: The Gateway that the Function's route names; None while there is no such object.
        created: RFC 3339 time at which the Function was created; "" while it is unknown.
        scaled_by: The object that scales it instead of its own options; None for none.
        aliases: Host names that stand for other addresses.
        dapr: Where it reaches Dapr's runtime, should it be an app; None where none is served.
        scalers: Triggers of its options that scalers read, complete.
        scaler_problems: Trigger name -> why it cannot be read.
    """

    components: Mapping[str, ComponentResource] = field(default_factory=dict)
    secrets: Mapping[tuple[str, str], str] = field(default_factory=dict)
    stored: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    trigger_types: frozenset[str] | None = None
    output_types: frozenset[str] | None = None
    state_types: frozenset[str] | None = None
    gateway: OpenFunctionGateway | None = None
    created: str = ""
    scaled_by: ScaledBy | None = None
    aliases: Aliases = NO_ALIASES
    dapr: DaprPorts | None = None
    scalers: tuple[ScalerTrigger, ...] = ()
    scaler_problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A reference to a component, resolved as far as it goes.

    Attributes:
        path: Field path of the reference.
        name: What the component is called on the target; its logical name, unless the target renames it.
        type: Component type; "" when nothing says it.
        component: The component with its secrets, or None.
        why: (reason, sentence) when there is no component, else None.
        renamed: Addresses in its metadata that stand for others.
    """

    path: str
    name: str
    type: str
    component: Component | None = None
    why: tuple[str, str] | None = None
    renamed: tuple[Renamed, ...] = ()


def component_names(function: Function) -> frozenset[str]:
    """Return the names of standalone Components that this Function refers to, existing or not."""
    serving = function.serving
    if serving is None:
        return frozenset()
    triggers = serving.triggers
    used = {output.name for output in serving.outputs}
    if triggers is not None:
        used |= {trigger.name for trigger in triggers.dapr} | {each.name for each in triggers.inputs}
    used |= {name for name, spec in serving.states.items() if spec is None}
    return frozenset(name for name in used if serving.component(name) is None)


def secret_names(function: Function, facts: Facts) -> frozenset[str]:
    """Return the names of Secrets that the components of this Function take values from, existing or not."""
    serving = function.serving
    if serving is None:
        return frozenset()
    specs: list[ComponentSpec | None] = [*serving.bindings.values(), *serving.pubsub.values()]
    specs += serving.states.values()
    specs += [found.spec for found in _standalone(function, facts) if not _stored_in(found)]
    return frozenset(
        item.secret_key_ref.name
        for spec in specs
        for item in (spec.metadata if spec else ())
        if item.secret_key_ref is not None
    )


def stored_secret_names(function: Function, facts: Facts) -> frozenset[tuple[str, str]]:
    """Return (secret store, secret) of all that its standalone Components take from such stores."""
    return frozenset(
        (store, item.secret_key_ref.name)
        for found in _standalone(function, facts)
        if (store := _stored_in(found))
        for item in found.spec.metadata
        if item.secret_key_ref is not None
    )


def _standalone(function: Function, facts: Facts) -> list[ComponentResource]:
    return [facts.components[name] for name in component_names(function) if name in facts.components]


def _stored_in(resource: ComponentResource) -> str:
    """Return the secret store of a Component; "" for the platform's Secrets, which have a name in Dapr."""
    return "" if resource.secret_store in _PLATFORM else resource.secret_store


def links(function: Function, facts: Facts) -> tuple[dict[str, Link], dict[str, Link]]:
    """Return (name of a dapr trigger -> link, name of an output -> link), in written order."""
    serving = function.serving or Serving()
    dapr = serving.triggers.dapr if serving.triggers else ()
    found = (
        {t.name: _refer(function, t, f"{_TRIGGERS}[{i}]", facts) for i, t in enumerate(dapr)},
        {o.name: _refer(function, o, f"{_OUTPUTS}[{i}].dapr", facts) for i, o in enumerate(serving.outputs)},
    )
    return found


def state_links(function: Function, facts: Facts) -> dict[str, Link]:
    """Return name of a state -> link, in written order."""
    states = function.serving.states if function.serving else {}
    return {
        name: _link(function, name, "", spec, f"{_STATES}.{name}", facts) for name, spec in states.items()
    }


def input_links(function: Function, facts: Facts) -> dict[str, Link]:
    """Return name of an extra input -> link, in written order."""
    asked = function.serving.triggers if function.serving else None
    inputs = asked.inputs if asked else ()
    return {e.name: _refer(function, e, f"{_INPUTS}[{i}].dapr", facts) for i, e in enumerate(inputs)}


def _refer(
    function: Function, reference: DaprTrigger | DaprOutput | DaprInput, path: str, facts: Facts
) -> Link:
    serving = function.serving or Serving()
    inline = serving.component(reference.name)
    return _link(function, reference.name, reference.type, inline, f"{path}.name", facts)


def _link(
    function: Function, name: str, kind: str, spec: ComponentSpec | None, path: str, facts: Facts
) -> Link:
    """Resolve a reference; `kind` is the type it insists on ("" = none), `spec` what is declared inline."""
    store = ""
    if spec is None:
        resource = facts.components.get(name)
        if resource is None:
            sentence = (
                f'no component "{name}" in serving.bindings, serving.pubsub, serving.states or the namespace '
                f'"{function.namespace}"; declare it inline or apply a Component of that name'
            )
            return Link(path=path, name=name, type=kind, why=("ComponentNotFound", sentence))
        app = names.app_id(function.namespace, function.name)
        if resource.scopes and app not in resource.scopes and function.name not in resource.scopes:
            sentence = f'Component "{name}" is limited to other apps; add "{app}" to its scopes'
            return Link(path=path, name=name, type=kind, why=("ComponentOutOfScope", sentence))
        spec, store = resource.spec, _stored_in(resource)
    kind = kind or spec.type
    component, missing = _resolve(function, name, spec, facts, store)
    if component is None:
        return Link(path=path, name=name, type=kind, why=("SecretNotFound", missing))
    metadata, renamed = facts.aliases.metadata(component.metadata)
    component = replace(component, metadata=metadata)
    return Link(path=path, name=name, type=kind, component=component, renamed=renamed)


def _resolve(
    function: Function, name: str, spec: ComponentSpec, facts: Facts, store: str
) -> tuple[Component | None, str]:
    """Fill in secrets and variables; returns (component, "") or (None, what is missing).

    `store` keeps the secrets, "" for the platform's own.
    """
    metadata: dict[str, str] = {}
    for item in spec.metadata:
        if item.secret_key_ref is not None:
            secret = item.secret_key_ref
            key = secret.key or secret.name
            if store:
                named = facts.stored.get((store, secret.name, secret.name))
                value = facts.stored.get((store, secret.name, key), named)
            else:
                value = facts.secrets.get((secret.name, key))
            if value is None and store:
                return None, (
                    f'component "{name}" takes "{item.name}" from key "{key}" of secret "{secret.name}" '
                    f'in the secret store "{store}", which has no such key or cannot be read'
                )
            if value is None:
                return None, (
                    f'component "{name}" takes "{item.name}" from key "{key}" of Secret "{secret.name}", '
                    "which does not exist; apply that Secret"
                )
        elif item.env_ref:
            value = facts.variables.get(item.env_ref)
            if value is None:
                return None, (
                    f'component "{name}" takes "{item.name}" from the environment variable "{item.env_ref}", '
                    "which is not set for the platform"
                )
        else:
            # Dapr replaces these two; `{uuid}` and `{podName}` differ per consumer: the driver's business.
            value = item.text.replace("{namespace}", function.namespace)
            value = value.replace("{appID}", names.app_id(function.namespace, function.name))
        metadata[item.name] = value
    return (
        Component(
            namespace=function.namespace,
            name=name,
            type=spec.type,
            version=spec.version or "v1",
            metadata=metadata,
        ),
        "",
    )


def useful_events(due: int, subscription: Subscription, *, lanes: int, lag_threshold: float) -> int:
    """Return how many waiting events further instances could take: those of a lane follow each other.

    Args:
        due: Events that wait or are being handled.
        subscription: Whose.
        lanes: Partitions that it holds; 0 where the broker keeps no order.
        lag_threshold: Events per instance.

    Example: 100 events in 4 partitions at 10 per instance count as 40, so 4 instances; KEDA does the same.
    """
    if not lanes or subscription.ordering != "partition":
        return due
    return min(due, math.ceil(lanes * lag_threshold))


def subscriptions(
    function: Function,
    found: Mapping[str, Link],
    facts: Facts,
    *,
    max_attempts: int | None,
    ordering: str = "partition",
) -> tuple[tuple[Subscription, ...], list[Problem]]:
    """Return a subscription per dapr trigger, and a problem for each trigger that cannot have one."""
    serving = function.serving or Serving()
    made: list[Subscription] = []
    problems: list[Problem] = []
    for index, trigger in enumerate(serving.triggers.dapr if serving.triggers else ()):
        link = found[trigger.name]
        path = f"{_TRIGGERS}[{index}]"
        component = link.component
        if component is None:
            reason, sentence = link.why or ("ComponentNotFound", "no such component")
            problems.append(Problem(reason=reason, path=link.path, message=sentence))
            continue
        if facts.trigger_types is not None and component.type not in facts.trigger_types:
            problems.append(_unsupported(path, component, facts.trigger_types, "drive a function"))
            continue
        is_topic = component.type.startswith("pubsub.")
        if is_topic and not trigger.topic:
            problems.append(
                Problem(
                    reason="TopicMissing",
                    path=f"{path}.topic",
                    message=f'"{trigger.name}" is a {component.type} component: say which topic to take',
                )
            )
            continue
        subscription = Subscription(
            namespace=function.namespace,
            function=function.name,
            name=trigger.name,
            input_name=trigger.input_name or trigger.name,
            component=component,
            topic=trigger.topic if is_topic else "",
            ordering=ordering,
        )
        if max_attempts is not None:
            subscription = replace(subscription, max_attempts=max_attempts)
        if subscription.id in {each.id for each in made}:
            continue  # the same component and topic twice would be two consumers of one name
        made.append(subscription)
    return tuple(made), problems


def deferred(function: Function, convention: str, *, max_attempts: int | None) -> tuple[Subscription, ...]:
    """Return the subscription to what a function accepted for later; () where its platform has no such thing.

    Attempts and pauses are the platform's own: Lambda's two retries come after one and two minutes.
    """
    if convention not in DEFERRED:
        return ()
    attempts, backoff_s, max_backoff_s = DEFERRED[convention]
    return (
        Subscription(
            namespace=function.namespace,
            function=function.name,
            name=DEFERRED_NAME,
            input_name=DEFERRED_NAME,
            component=Component(namespace=function.namespace, name=DEFERRED_NAME, type="pubsub.jetstream"),
            topic=names.deferred_topic(function.namespace, function.name),
            max_attempts=max_attempts or attempts,
            backoff_s=backoff_s,
            max_backoff_s=max_backoff_s,
        ),
    )


def outputs(
    function: Function, found: Mapping[str, Link], facts: Facts
) -> tuple[tuple[OutputBinding, ...], list[tuple[str, str]]]:
    """Return the outputs that can be sent to, and (field path, sentence) for those that cannot.

    A dangling output is no problem by itself: published manifests carry unused ones, and sending says so.
    """
    serving = function.serving or Serving()
    made: dict[str, OutputBinding] = {}
    dangling: list[tuple[str, str]] = []
    for index, output in enumerate(serving.outputs):
        link = found[output.name]
        component = link.component
        if component is None:
            _, sentence = link.why or ("", "no such component")
            dangling.append((link.path, f"sending to it fails: {sentence}"))
            continue
        if facts.output_types is not None and component.type not in facts.output_types:
            problem = _unsupported(f"{_OUTPUTS}[{index}].dapr", component, facts.output_types, "be sent to")
            dangling.append((problem.path, f"sending to it fails: {problem.message}"))
            continue
        name = output.output_name or output.name
        is_topic = component.type.startswith("pubsub.")
        if is_topic and not output.topic:
            dangling.append(
                (f"{_OUTPUTS}[{index}].dapr.topic", "sending to it fails: a pub/sub output needs a topic")
            )
            continue
        made[name] = OutputBinding(
            name=name,
            component=component,
            topic=output.topic if is_topic else "",
            operation="" if is_topic else output.operation,
            metadata=dict(output.metadata),
        )
    return tuple(made.values()), dangling


def _unsupported(path: str, component: Component, known: frozenset[str], ability: str) -> Problem:
    listed = ", ".join(sorted(known)) or "none"
    return Problem(
        reason="ComponentTypeUnsupported",
        path=path,
        message=f'component "{component.name}" of type {component.type} cannot {ability} here; '
        f"types that can: {listed}",
    )
