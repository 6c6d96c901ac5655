"""How drivers read a component's metadata: keys in any case, Dapr's ways to write durations and booleans.

Every reading that fails is a ComponentError that names the component and the key, never the value of a
secret. Called by the drivers' constructors.
Source: `dapr-components` contract, head of the page.
"""

from __future__ import annotations

import re
import uuid
from typing import Final

from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.quantity import parse_duration

__all__ = ["TRUE", "ComponentSettings", "consumer_name", "truthy"]

TRUE: Final = frozenset({"true", "1", "t", "y", "yes", "on"})
_PLAIN: Final = re.compile(r"[0-9]+(\.[0-9]+)?")


def truthy(text: str) -> bool:
    """Tell whether a text is one of the ways to write true."""
    return text.strip().lower() in TRUE


def consumer_name(text: str, seed: str) -> str:
    """Return a consumer's name with `{uuid}` and `{podName}` filled in.

    A name stands for a position or a session at a broker, so it has to be the same after a restart: what
    Dapr draws anew each time is made of the seed here.

    Args:
        text: As the metadata say.
        seed: Differs between machines and consumers.
    """
    for template in ("{uuid}", "{podName}"):
        if template in text:
            text = text.replace(template, str(uuid.uuid5(uuid.NAMESPACE_URL, seed)))
    return text


class ComponentSettings:
    """Metadata of one component.

    Args:
        component: Whose.
    """

    def __init__(self, component: Component) -> None:
        self.where = f"Component {component.namespace}/{component.name}"
        self._values = {key.lower(): value for key, value in component.metadata.items()}

    def text(self, name: str, default: str = "") -> str:
        """Return a value, `default` where it is absent or blank."""
        value = self._values.get(name.lower(), "")
        return value if value.strip() else default

    def required(self, name: str, hint: str = "") -> str:
        """Return a value that has to be there.

        Raises:
            ComponentError: It is absent or blank.
        """
        value = self.text(name).strip()
        if not value:
            raise ComponentError(f"metadata `{name}` is required", where=self.where, hint=hint)
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a boolean."""
        value = self.text(name)
        return truthy(value) if value else default

    def number(self, name: str, default: int) -> int:
        """Return a whole number. Raises ComponentError."""
        value = self.text(name).strip()
        if not value:
            return default
        try:
            return int(value)
        except ValueError as exc:
            raise ComponentError(f"metadata `{name}` is not a whole number", where=self.where) from exc

    def seconds(self, name: str, default: float) -> float:
        """Return seconds from a Go duration or a plain number; negative ones count as 0.

        Raises:
            ComponentError: It is neither.
        """
        value = self.text(name).strip()
        if not value:
            return default
        try:
            return float(value) if _PLAIN.fullmatch(value) else max(0.0, parse_duration(value))
        except ValueError as exc:
            raise ComponentError(f"metadata `{name}`: {exc}", where=self.where) from exc
