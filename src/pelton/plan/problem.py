"""What keeps a Function from being planned, collected rather than raised, so that all of it shows at once.

Made throughout `plan/`; `plan/conditions` turns problems into the status of the phase they stop.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One reason why a Function cannot be built or served as it is written.

    Attributes:
        reason: CamelCase, for conditions, e.g. `SourceNotLocal`.
        path: Field path, e.g. `spec.build.srcRepo.url`.
        message: What is wrong and what to do, one or two sentences.
        phase: `build` or `serving`.
    """

    reason: str
    path: str
    message: str
    phase: str = "serving"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"
