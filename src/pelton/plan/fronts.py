"""Paths under which foreign clients look for a function: AWS' Invoke API, OpenWhisk's web actions.

Such a request reaches the function on any host with its path kept; the convention's own code in the worker
reads it. Called by `plan/function`. Pure.
Source: `faas-conventions` contract, sections 2.5 and 6.3.
"""

from __future__ import annotations

import re

__all__ = ["fronts"]

_COLON = "(?::|%3[Aa])"
_DEFAULT = "default"


def fronts(convention: str, namespace: str, name: str) -> tuple[str, ...]:
    """Return regular expressions over the whole path (RE2), one per kind of address; () for most.

    Names belong to the namespace `default`; a function of another namespace is called `namespace.name` by
    Lambda clients, and has its own namespace in OpenWhisk's paths.
    """
    if convention == "lambda":
        called = re.escape(name if namespace == _DEFAULT else f"{namespace}.{name}")
        arn = f"(?:arn{_COLON}[^/]*{_COLON}function{_COLON}|[0-9]+{_COLON}function{_COLON}|function{_COLON})?"
        return (f"/20(?:15-03-31|21-11-15)/functions/{arn}{called}(?:{_COLON}[^/]*)?/[^/]+(?:/.*)?",)
    if convention == "openwhisk":
        where = f"(?:_|guest|{re.escape(namespace)})" if namespace == _DEFAULT else re.escape(namespace)
        called = re.escape(name)
        # A whole package is one function: its actions are `<package>/<action>` with the function's name as
        # the package; a single action is `default/<name>`, or without a package.
        return (
            rf"/api/v1/web/{where}/(?:default/{called}(?:\.[a-z]+)?|{called}/[^/]+)(?:/.*)?",
            f"/api/v1/namespaces/{where}/actions/{called}(?:/[^/]+)?",
        )
    return ()
