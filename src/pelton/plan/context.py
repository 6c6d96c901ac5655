"""The function context: what a functions framework is told about its triggers, inputs and outputs.

One merged object serves every published framework: the v1beta1 keys plus `triggers`, `topic` next to `uri`,
and `preHooks`/`postHooks`/`tracing`. Called by `plan/function`, read by `compat/`. Pure.

Source: contracts, OpenFunction, section 8.3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pelton.model.component import ComponentSpec
from pelton.model.function import DaprTrigger, Function, Serving, Tracing
from pelton.plan.eventing import Link

__all__ = ["DEFAULT_PORT", "function_context", "to_text"]

DEFAULT_PORT = 8080


def to_text(context: Mapping[str, Any]) -> str:
    """Return the context as the value of FUNC_CONTEXT: compact JSON, the same for the same context."""
    return json.dumps(context, separators=(",", ":"), ensure_ascii=False)


def function_context(
    function: Function,
    triggers: Mapping[str, Link],
    outputs: Mapping[str, Link],
    states: Mapping[str, Link] | None = None,
) -> dict[str, Any]:
    """Return the context of a Function.

    Args:
        function: With defaults filled in.
        triggers: Name of a dapr trigger -> its component, as found by `plan/eventing`.
        outputs: Name of an output -> its component.
        states: Name of a state -> its component; None when nothing is known about them.
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
        described["inputs"] = [{"name": i.name, "type": i.type, "topic": i.topic} for i in asked.inputs]
    context["triggers"] = described
    if dapr:
        context["inputs"] = {
            trigger.input_name or trigger.name: _input(trigger, triggers[trigger.name]) for trigger in dapr
        }
    if serving.outputs:
        context["outputs"] = {
            output.output_name or output.name: {
                **_place(output.name, output.topic, outputs[output.name].type),
                "operation": output.operation,
                "metadata": dict(output.metadata),
            }
            for output in serving.outputs
        }
    if serving.states:
        context["states"] = {
            name: {"componentName": name, "componentType": _type_of(name, spec, states or {})}
            for name, spec in serving.states.items()
        }
    return context | _surroundings(serving)


def _type_of(name: str, spec: ComponentSpec | None, states: Mapping[str, Link]) -> str:
    return spec.type if spec else states[name].type if name in states else ""


def _trigger(trigger: DaprTrigger, link: Link) -> dict[str, str]:
    return {
        "name": trigger.name,
        "type": link.type,
        "topic": trigger.topic,
        "inputName": trigger.input_name or trigger.name,
    }


def _input(trigger: DaprTrigger, link: Link) -> dict[str, Any]:
    return {**_place(trigger.name, trigger.topic, link.type), "metadata": {}}


def _place(name: str, topic: str, kind: str) -> dict[str, str]:
    """`uri` is the topic for pub/sub and the component's logical name for anything else."""
    return {
        "uri": topic if kind.startswith("pubsub.") or (topic and not kind) else name,
        "topic": topic,
        "componentName": name,
        "componentType": kind,
    }


def _surroundings(serving: Serving) -> dict[str, Any]:
    """Return hooks and tracing; hooks are the evident successor of the plugins that older frameworks read."""
    pre = list(serving.hooks.pre) if serving.hooks else []
    post = list(serving.hooks.post) if serving.hooks else []
    found: dict[str, Any] = {}
    tracing = serving.tracing
    plugins_pre, plugins_post = pre, post
    if tracing is not None:
        found["tracing"] = found["pluginsTracing"] = _tracing(tracing)
        if tracing.enabled and tracing.provider is not None:
            plugins_pre = [*pre, tracing.provider.name]
            plugins_post = [tracing.provider.name, *post]
    if plugins_pre:
        found["prePlugins"] = plugins_pre
    if plugins_post:
        found["postPlugins"] = plugins_post
    if pre:
        found["preHooks"] = pre
    if post:
        found["postHooks"] = post
    return found


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
