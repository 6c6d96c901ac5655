"""The function context: what a functions framework is told about its triggers, inputs and outputs.

One merged object serves every published framework: the v1beta1 keys plus `triggers`, `topic` next to `uri`,
and `preHooks`/`postHooks`/`tracing`. `context_v1beta2` is the plain newer form beside it. Called by
`plan/function` and `targets/kubernetes/pod`, read by `compat/`. Pure.

Source: contracts, OpenFunction, sections 8.1 (hooks and tracing for all functions) and 8.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pelton.model.function import DaprTrigger, Function, Hooks, HttpRoute, HttpTrigger, Serving, Tracing
from pelton.plan.eventing import Link

__all__ = [
    "DEFAULT_PORT",
    "Around",
    "around",
    "context_v1beta2",
    "effective_hooks",
    "effective_tracing",
    "function_context",
    "to_text",
]

DEFAULT_PORT = 8080


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """What surrounds each invocation of a function.

    Attributes:
        hooks: The function's and the platform's, joined.
        plugins: What older frameworks run instead; None = the hooks, their evident successor.
        tracing: None when there is none to do.
    """

    hooks: Hooks = field(default_factory=Hooks)
    plugins: Hooks | None = None
    tracing: Tracing | None = None


def around(
    serving: Serving,
    *,
    hooks: Hooks | None = None,
    tracing: Tracing | None = None,
    plugins: Hooks | None = None,
) -> Around:
    """Join what a function asks for with what holds for all functions.

    Args:
        serving: The function's.
        hooks: For all functions; None for none.
        tracing: For all functions; None for none.
        plugins: As in Around.
    """
    return Around(
        hooks=effective_hooks(serving.hooks, hooks),
        plugins=plugins,
        tracing=effective_tracing(serving.tracing, tracing),
    )


def effective_hooks(own: Hooks | None, everyone: Hooks | None) -> Hooks:
    """Return the hooks that run: the function's inside those for all, unless its policy is Override."""
    own, everyone = own or Hooks(), everyone or Hooks()
    if own.overrides:
        return own
    return Hooks(pre=(*everyone.pre, *own.pre), post=(*own.post, *everyone.post), policy=own.policy)


def effective_tracing(own: Tracing | None, everyone: Tracing | None) -> Tracing | None:
    """Return the tracing that is done; parts that the function leaves open come from that for all."""
    if own is None:
        return everyone if everyone is not None and everyone.enabled else None
    if not own.enabled:
        return None
    if everyone is None:
        return own
    return Tracing(
        enabled=True,
        provider=own.provider if own.provider is not None else everyone.provider,
        tags={**everyone.tags, **own.tags},
        baggage={**everyone.baggage, **own.baggage},
    )


def to_text(context: Mapping[str, Any]) -> str:
    """Return the context as the value of FUNC_CONTEXT: compact JSON, the same for the same context."""
    return json.dumps(context, separators=(",", ":"), ensure_ascii=False)


def function_context(
    function: Function,
    triggers: Mapping[str, Link],
    inputs: Mapping[str, Link],
    outputs: Mapping[str, Link],
    states: Mapping[str, Link],
    surroundings: Around | None = None,
) -> dict[str, Any]:
    """Return the context of a Function, in the merged form.

    Args:
        function: With defaults filled in.
        triggers: Name of a dapr trigger -> its component, as found by `plan/eventing`.
        inputs: Name of an extra input -> its component.
        outputs: Name of an output -> its component.
        states: Name of a state -> its component.
        surroundings: Hooks and tracing; None for the function's own.
    """
    serving = function.serving or Serving()
    asked = serving.triggers
    dapr = asked.dapr if asked else ()
    http = asked.http if asked else None
    context: dict[str, Any] = {
        "name": function.name,
        "version": function.version,
        "runtime": "Async" if dapr else "Knative",
        # Text, as the original writes it; frameworks that count on a number convert it.
        "port": str((http.port if http else None) or DEFAULT_PORT),
    }
    described: dict[str, Any] = {}
    if http is not None:
        described["http"] = {"port": http.port or DEFAULT_PORT, "engine": http.engine or "knative"}
    if dapr:
        described["dapr"] = [_trigger(trigger, triggers[trigger.name]) for trigger in dapr]
    if asked and asked.inputs:
        described["inputs"] = [
            {"name": inputs[i.name].name, "type": inputs[i.name].type, "topic": i.topic} for i in asked.inputs
        ]
    context["triggers"] = described
    if dapr:
        context["inputs"] = {
            trigger.input_name or trigger.name: _input(trigger, triggers[trigger.name]) for trigger in dapr
        }
    if serving.outputs:
        context["outputs"] = {
            output.output_name or output.name: {
                **_place(output.name, output.topic, outputs[output.name]),
                "operation": output.operation,
                "metadata": dict(output.metadata),
            }
            for output in serving.outputs
        }
    if serving.states:
        context["states"] = {
            name: {"componentName": states[name].name, "componentType": states[name].type}
            for name in serving.states
        }
    return context | _surroundings(surroundings or around(serving))


def _trigger(trigger: DaprTrigger, link: Link) -> dict[str, str]:
    return {
        "name": link.name,
        "type": link.type,
        "topic": trigger.topic,
        "inputName": trigger.input_name or trigger.name,
    }


def _input(trigger: DaprTrigger, link: Link) -> dict[str, Any]:
    return {**_place(trigger.name, trigger.topic, link), "metadata": {}}


def _place(name: str, topic: str, link: Link) -> dict[str, str]:
    """`uri` is the topic for pub/sub and the component's logical name for anything else."""
    return {
        "uri": topic if link.type.startswith("pubsub.") or (topic and not link.type) else name,
        "topic": topic,
        "componentName": link.name,
        "componentType": link.type,
    }


def _surroundings(found: Around) -> dict[str, Any]:
    """Return hooks and tracing; older frameworks find the tracing provider among the plugins."""
    plugins = found.plugins if found.plugins is not None else found.hooks
    pre, post = list(plugins.pre), list(plugins.post)
    keys: dict[str, Any] = {}
    tracing = found.tracing
    if tracing is not None:
        keys["tracing"] = keys["pluginsTracing"] = _tracing(tracing)
        if tracing.provider is not None:
            pre, post = [*pre, tracing.provider.name], [tracing.provider.name, *post]
    listed = {
        "prePlugins": pre,
        "postPlugins": post,
        "preHooks": list(found.hooks.pre),
        "postHooks": list(found.hooks.post),
    }
    return keys | _stated(**listed)


def _tracing(tracing: Tracing) -> dict[str, Any]:
    provider: dict[str, Any] = {}
    if tracing.provider is not None:
        provider = {"name": tracing.provider.name, "oapServer": tracing.provider.oap_server}
        exporter = tracing.provider.exporter
        if exporter is not None:
            provider["exporter"] = {
                name: value
                for name in ("name", "endpoint", "headers", "compression", "timeout", "protocol")
                if (value := getattr(exporter, name))
            }
    return {
        "enabled": tracing.enabled,
        "provider": provider,
        "tags": dict(tracing.tags),
        "baggage": dict(tracing.baggage),
    }


def context_v1beta2(
    function: Function,
    triggers: Mapping[str, Link],
    inputs: Mapping[str, Link],
    outputs: Mapping[str, Link],
    states: Mapping[str, Link],
    surroundings: Around | None = None,
) -> dict[str, Any]:
    """Return the context in the v1beta2 form; absent parts are left out.

    Args:
        function: With defaults filled in.
        triggers: Name of a dapr trigger -> its component.
        inputs: Name of an extra input -> its component.
        outputs: Name of an output -> its component.
        states: Name of a state -> its component.
        surroundings: Hooks and tracing; None for the function's own.
    """
    serving = function.serving or Serving()
    asked = serving.triggers
    surroundings = surroundings or around(serving)
    described: dict[str, Any] = {}
    if asked is not None and asked.http is not None:
        described["http"] = _http(asked.http)
    if asked is not None and asked.dapr:
        described["dapr"] = [
            _stated(
                name=triggers[t.name].name, type=triggers[t.name].type, topic=t.topic, inputName=t.input_name
            )
            for t in asked.dapr
        ]
    if asked is not None and asked.inputs:
        described["inputs"] = [
            {"dapr": _stated(name=inputs[i.name].name, type=inputs[i.name].type, topic=i.topic)}
            for i in asked.inputs
        ]
    parts: dict[str, Any] = {
        "triggers": described,
        "inputs": {
            i.name: _component(inputs[i.name], topic=i.topic) for i in (asked.inputs if asked else ())
        },
        "outputs": {
            o.name: _component(
                outputs[o.name], topic=o.topic, metadata=dict(o.metadata), operation=o.operation
            )
            for o in serving.outputs
        },
        "states": {name: _component(states[name]) for name in serving.states},
        "preHooks": list(surroundings.hooks.pre),
        "postHooks": list(surroundings.hooks.post),
        "tracing": _tracing(surroundings.tracing) if surroundings.tracing is not None else None,
    }
    return {"name": function.name, "version": function.version, **_stated(**parts)}


def _stated(**parts: Any) -> dict[str, Any]:
    return {name: value for name, value in parts.items() if value}


def _component(link: Link, **parts: Any) -> dict[str, Any]:
    return {"componentName": link.name, "componentType": link.type, **_stated(**parts)}


def _http(http: HttpTrigger) -> dict[str, Any]:
    return _stated(
        port=http.port or DEFAULT_PORT,
        engine=http.engine,
        route=_route(http.route) if http.route is not None else None,
    )


def _route(route: HttpRoute) -> dict[str, Any]:
    gateway = route.gateway
    return _stated(
        gatewayRef={"name": gateway.name, "namespace": gateway.namespace} if gateway is not None else None,
        hostnames=list(route.hostnames),
        rules=list(route.rules),
    )
