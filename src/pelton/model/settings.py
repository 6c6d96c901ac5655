"""How drivers read a component's metadata: keys in any case, Dapr's ways to write durations and booleans.

Every reading that fails is a ComponentError that names the component and the key, never the value of a
secret. Called by the drivers' constructors.
Source: `dapr-components` contract, head of the page.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from typing import Final
from urllib.parse import SplitResult, urlsplit

from pelton.errors import ComponentError
from pelton.model.desired import Component
from pelton.quantity import parse_duration

__all__ = [
    "TRUE",
    "ComponentSettings",
    "consumer_name",
    "is_single",
    "positive_seconds",
    "server_url",
    "truthy",
]

TRUE: Final = frozenset({"true", "1", "t", "y", "yes", "on"})
_PLAIN: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")


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


def is_single(concurrency: str, *, where: str) -> bool:
    """Tell whether `concurrency` asks for one event at a time; "" leaves it to the subscription.

    Raises:
        ComponentError: It is neither `single` nor `parallel`.
    """
    text = concurrency.strip().lower()
    if text not in {"", "single", "parallel"}:
        raise ComponentError("metadata `concurrency` is neither single nor parallel", where=where)
    return text == "single"


def positive_seconds(text: str) -> float:
    """Return the seconds of a time to live, a whole number of them or a Go duration; 0 for "".

    Raises:
        ValueError: It is neither, or not above 0.
    """
    text = text.strip()
    if not text:
        return 0.0
    seconds = float(int(text)) if text.lstrip("+-").isdecimal() else parse_duration(text)
    if seconds <= 0:
        raise ValueError("not above 0")
    return seconds


def server_url(text: str, schemes: Collection[str]) -> SplitResult | None:
    """Return the parts of a server's URL; None for what is none.

    No error is raised, since it would show a part of the text. A `/`, `?` or `#` in a password that is not
    percent-encoded ends the host before the password does. The rest of it would be taken for a path and be
    shown as one, so an `@` behind the host makes it no URL.

    Args:
        text: The URL.
        schemes: Those that are taken.
    """
    try:
        url = urlsplit(text.strip())
        if url.scheme not in schemes or not url.hostname or (url.port is not None and url.port < 1):
            return None
    except ValueError:
        return None
    return None if "@" in f"{url.path}{url.query}{url.fragment}" else url


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

    def seconds(self, name: str, default: float, *, plain_s: float = 1.0) -> float:
        """Return seconds from a Go duration or a plain number; negative ones count as 0.

        Args:
            name: Its key.
            default: What counts where it is absent or blank.
            plain_s: Seconds that 1 stands for in a plain number.

        Raises:
            ComponentError: It is neither.
        """
        value = self.text(name).strip()
        if not value:
            return default
        try:
            if _PLAIN.fullmatch(value):
                return max(0.0, float(value) * plain_s)
            return max(0.0, parse_duration(value))
        except ValueError as exc:
            raise ComponentError(f"metadata `{name}`: {exc}", where=self.where) from exc
