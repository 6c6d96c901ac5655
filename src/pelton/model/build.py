"""What a build leaves behind: a content-addressed bundle and the environment it runs in.

Made by `builders/`, kept in the Function's record so that the same content is not built twice, and read by
`plan/function`. `to_refs` and `from_refs` are that record: text only, as resource references are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["BuildResult"]

_PREFIX = "pelton.dev/"
_OPTIONS = "pelton.dev/options"
_FIELDS = ("bundle", "digest", "environment", "convention", "target", "signature", "source")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A finished build.

    Attributes:
        bundle: Absolute path of the source snapshot.
        digest: `sha256:<hex>` of its content.
        environment: Absolute path of the site-packages directory of its environment; "" for none.
        convention: Name in the convention table, e.g. `openfunction`.
        target: Function name found in the source.
        signature: Signature type found, e.g. `http`.
        source: Source file relative to the bundle, e.g. `main.py`; "" when there is no single one.
        options: What detection found about how to serve it; see `model/convention.Match`.
        size_bytes: Size of the bundle, 0 when unknown; not part of the record.
        log_tail: Last 20 lines of the build's output, oldest first; not part of the record.
    """

    bundle: str
    digest: str
    environment: str = ""
    convention: str = ""
    target: str = ""
    signature: str = ""
    source: str = "main.py"
    options: dict[str, str] = field(default_factory=dict)
    size_bytes: int = 0
    log_tail: tuple[str, ...] = ()

    def to_refs(self) -> dict[str, str]:
        """Return the record as a Builder's `status.resourceRef`, key -> text; empty fields are left out."""
        refs = {f"{_PREFIX}{name}": value for name in _FIELDS if (value := getattr(self, name))}
        if self.options:
            refs[_OPTIONS] = json.dumps(self.options, sort_keys=True, separators=(",", ":"))
        return refs

    @classmethod
    def from_refs(cls, refs: Mapping[str, str]) -> BuildResult | None:
        """Read such a record; None when it is not a complete one."""
        values = {name: refs.get(f"{_PREFIX}{name}", "") for name in _FIELDS}
        if not values["bundle"] or not values["digest"]:
            return None
        try:
            options = json.loads(refs.get(_OPTIONS, "") or "{}")
        except ValueError:
            return None
        return cls(**values, options=options)  # type: ignore[arg-type]  # `values` holds the text fields only
