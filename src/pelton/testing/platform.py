"""A platform in memory for tests of the control plane: builder, checker and target that keep a journal.

Nothing starts, nothing is built; a test scripts what fails. Goes with `testing/memory_store` and
`testing/clock`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from pelton.model.build import BuildResult
from pelton.model.desired import BuildRun, Desired, Workload
from pelton.model.function import Function
from pelton.model.snapshot import CheckResult, FunctionObserved
from pelton.plan.names import content_hash

__all__ = ["MemoryPlatform"]


@dataclass(slots=True)
class MemoryPlatform:
    """Builder, checker and `Target` in one.

    Attributes:
        journal: What was asked, in order: ("build"|"check"|"apply"|"remove", namespace/name, detail).
        applied: What runs, by namespace/name.
        build_error: Called with the Function; what it returns is raised instead of building.
        check_result: Called with the workload; what it returns is the check's answer.
        apply_error: Called with the Desired; what it returns is raised instead of applying.
        remove_error: Raised instead of removing.
        gate: When set, builds and checks wait for it.
        seen: Called with what runs; what it returns is how that fares.
    """

    journal: list[tuple[str, str, str]] = field(default_factory=list)
    applied: dict[str, Desired] = field(default_factory=dict)
    build_error: Callable[[Function], Exception | None] = lambda _function: None
    check_result: Callable[[Workload], CheckResult] = lambda _workload: CheckResult(ok=True, load_ms=1.0)
    apply_error: Callable[[Desired], Exception | None] = lambda _desired: None
    remove_error: Exception | None = None
    gate: asyncio.Event | None = None
    seen: Callable[[Desired], FunctionObserved] = lambda desired: FunctionObserved(
        namespace=desired.workload.namespace, name=desired.workload.name, revision=desired.revision
    )

    async def build(self, run: BuildRun, function: Function) -> BuildResult:
        """Pretend to build: the result depends on nothing but the run."""
        self.journal.append(("build", function.key, run.source_url))
        if self.gate is not None:
            await self.gate.wait()
        error = self.build_error(function)
        if error is not None:
            raise error
        digest = content_hash(run)
        return BuildResult(
            bundle=f"/bundles/{digest[:12]}",
            digest=f"sha256:{digest}",
            environment="/environments/none",
            convention="gcf",
            target=run.env.get("FUNC_NAME", "main"),
            signature="http",
        )

    async def check(self, workload: Workload) -> CheckResult:
        """Answer what the test scripted."""
        self.journal.append(("check", workload.key, workload.revision))
        if self.gate is not None:
            await self.gate.wait()
        return self.check_result(workload)

    async def observe(self, namespace: str, name: str) -> tuple[Desired | None, FunctionObserved | None]:
        """Return what was applied last."""
        desired = self.applied.get(f"{namespace}/{name}")
        if desired is None:
            return None, None
        return desired, self.seen(desired)

    async def apply(self, desired: Desired) -> None:
        """Take it as running."""
        self.journal.append(("apply", desired.workload.key, desired.workload.revision))
        error = self.apply_error(desired)
        if error is not None:
            raise error
        self.applied[desired.workload.key] = desired

    async def remove(self, namespace: str, name: str) -> None:
        """Forget it."""
        self.journal.append(("remove", f"{namespace}/{name}", ""))
        if self.remove_error is not None:
            raise self.remove_error
        self.applied.pop(f"{namespace}/{name}", None)

    def actions(self) -> list[str]:
        """Return the journal's first column and empty it."""
        asked = [entry[0] for entry in self.journal]
        self.journal.clear()
        return asked
