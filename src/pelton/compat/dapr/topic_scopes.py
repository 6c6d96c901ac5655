"""Whether an app may publish to a topic, or subscribe to it, by what the component's metadata say. Pure.

Asked by what publishes and by `callbacks.py`.
Source: contracts, Dapr runtime, section 3 (topic authorisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["may_use"]

_KEYS: Final = {"publishing": "publishingscopes", "subscription": "subscriptionscopes"}


def may_use(metadata: Mapping[str, str], app_id: str, topic: str, direction: str) -> bool:
    """Tell whether an app may use a topic.

    Scopes are `app1=t1,t2;app2=`; an app that is not listed is not restricted, one with an empty list may use
    none. `allowedTopics` names all topics that there are; `protectedTopics` need an entry of the scopes.

    Args:
        metadata: The component's; keys in any case.
        app_id: The app.
        topic: The topic.
        direction: `publishing` or `subscription`.
    """
    settings = {key.lower(): value for key, value in metadata.items()}
    allowed = _words(settings.get("allowedtopics", ""))
    if allowed and topic not in allowed:
        return False
    scoped = _scopes(settings.get(_KEYS[direction], "")).get(app_id)
    if scoped is not None:
        return topic in scoped
    return topic not in _words(settings.get("protectedtopics", ""))


def _words(text: str) -> set[str]:
    return {word.strip() for word in text.split(",")} - {""}


def _scopes(text: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for entry in text.split(";"):
        app, mark, topics = entry.partition("=")
        if mark and app.strip():
            found.setdefault(app.strip(), set()).update(_words(topics))
    return found
