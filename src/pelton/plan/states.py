"""State stores that a Function may use, and what stands before its keys in them.

Called by `plan/function` with links that `plan/eventing` resolved. Pure.
Source: contracts, Dapr runtime, section 4 (`keyPrefix`).
"""

from __future__ import annotations

from collections.abc import Mapping

from pelton.model.desired import Component, StateBinding
from pelton.model.function import Function
from pelton.plan import names
from pelton.plan.eventing import Facts, Link

__all__ = ["key_prefix", "states"]

_SEPARATOR = "||"
_UNSERVED = ("primaryencryptionkey", "outboxpublishpubsub")


def states(
    function: Function, found: Mapping[str, Link], facts: Facts
) -> tuple[tuple[StateBinding, ...], list[tuple[str, str]]]:
    """Return the stores that can be used, and (field path, sentence) for those that cannot.

    Like an output that leads nowhere, a store that is missing is no problem by itself: using it says so.
    """
    made: list[StateBinding] = []
    missing: list[tuple[str, str]] = []
    for name, link in found.items():
        component = link.component
        if component is None:
            sentence = (link.why or ("", "no such component"))[1]
        elif facts.state_types is not None and component.type not in facts.state_types:
            listed = ", ".join(sorted(facts.state_types)) or "none"
            sentence = f"{component.type} cannot keep state here; types that can: {listed}"
        elif unserved := next((key for key in component.metadata if key.lower() in _UNSERVED), ""):
            sentence = f"its metadata `{unserved}` is not served, and nothing takes its place"
        else:
            prefix = key_prefix(component, function.namespace, function.name)
            if _SEPARATOR not in prefix.removesuffix(_SEPARATOR):
                made.append(StateBinding(name=name, component=component, prefix=prefix))
                continue
            sentence = f"its keyPrefix contains {_SEPARATOR}, which separates prefix and key"
        missing.append((link.path, f"using it fails: {sentence}"))
    return tuple(made), missing


def key_prefix(component: Component, namespace: str, name: str) -> str:
    """Return what stands before a function's keys in a store, `||` included; "" for nothing.

    Args:
        component: The store; its `keyPrefix` is appid (default), name, namespace, none, or a literal text.
        namespace: The function's.
        name: The function's.
    """
    given = next((v for k, v in component.metadata.items() if k.lower() == "keyprefix"), "").strip()
    app = names.app_id(namespace, name)
    known = {
        "": app,
        "appid": app,
        "name": component.name,
        "namespace": f"{namespace}.{app}",
        "none": "",
    }
    text = known.get(given.lower(), given)
    return text + _SEPARATOR if text else ""
