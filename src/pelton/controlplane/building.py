"""The build of a Function: a Builder for each, one at a time, its outcome recorded.

`controlplane/reconciler.py` asks `have` in each pass and `cli/` hands in who really builds. The same content
is not built twice while what came of it exists; a revision that was rolled back to brings its build along.

Source: contracts, OpenFunction, sections 6 and 7.1.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from pelton import log
from pelton.clock import Clock
from pelton.controlplane.children import BUILDERS, Children
from pelton.controlplane.events import Recorder
from pelton.controlplane.revisions import KeptRevision
from pelton.controlplane.work import Failures, Guard, Statuses, SupersededError, Work, reason_of, sentence_of
from pelton.errors import BuildError, PeltonError
from pelton.model.build import BuildResult
from pelton.model.desired import BuildRun
from pelton.model.function import Function
from pelton.plan.conditions import Phase, of_problems
from pelton.plan.function import SOURCE_DIGEST
from pelton.plan.history import Child, builder_object, builder_status, expired, pruned_builders
from pelton.plan.rollout import ROLLED_BACK_TO

__all__ = ["Builder", "Building"]

Builder = Callable[[BuildRun, Function], Awaitable[BuildResult]]
_SUCCESSFUL, _FAILED = 0, 1  # Builders kept where the Function does not say
_log = log.get(__name__)


class Building:
    """Builds, for all Functions.

    Args:
        build: Builds source; raises PeltonError (BuildError with the log's tail) when it cannot.
        built: Whether what a recorded build left behind still exists; else it is built again.
        children: Builders.
        statuses: Writes that a build has begun.
        failures: What failed is not tried again at once.
        guard: Ends what is superseded.
        recorder: Events.
        clock: For durations and ages.
    """

    def __init__(
        self,
        *,
        build: Builder,
        built: Callable[[BuildResult], bool],
        children: Children,
        statuses: Statuses,
        failures: Failures,
        guard: Guard,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._build = build
        self._built = built
        self._children = children
        self._statuses = statuses
        self._failures = failures
        self._guard = guard
        self._recorder = recorder
        self._clock = clock
        self._running: dict[str, str] = {}  # function key -> its Builder at work
        self._cancelled: set[str] = set()  # keys whose build somebody ended by its Builder

    def see(self, key: str, name: str, child: Child | None) -> bool:
        """Take in a changed Builder, None for a deleted one; tells whether to look at the Function."""
        if child is None:
            self._failures.forget(key)
            if self._running.get(key) == name:
                self._guard.give_up(key)
            return True
        if child.cancelled and self._running.get(key) == child.name:
            self._cancelled.add(key)
            self._guard.give_up(key)
        return False

    async def expire(self) -> None:
        """Delete the Builders that are older than their Function lets them be."""
        now = self._clock.now()
        for key in self._children.keys(BUILDERS):
            names = expired(self._children.of(BUILDERS, key), now=now)
            await self._children.delete(BUILDERS, key.partition("/")[0], names)

    async def have(self, work: Work) -> tuple[bool, BuildResult | None]:
        """Return (whether serving can go on, the build); fills in `work.build`, `digest` and `record`."""
        before = work.before("build")
        work.digest = (work.status.get("revision") or {}).get("imageDigest", "")
        problems = [problem for problem in work.plan.problems if problem.phase == "build"]
        if problems:
            reason, message = of_problems(problems)
            work.build = Phase(
                state="Failed", reason=reason, message=message, last_successful=before.last_successful
            )
            return False, None
        run, content = work.plan.build, work.plan.build_hash
        if run is None:
            await self._cancel_others(work, "")
            work.build = Phase(state="Skipped")
            work.digest = ""
            return True, None
        result = self._recorded(work, content)
        if result is not None:
            work.digest = result.digest
            done = Phase(
                state="Succeeded",
                ref=work.record.builder,
                last_successful=work.record.builder,
                content=content,
            )
            work.build = before if (before.state, before.content) == ("Succeeded", content) else done
            return True, result
        there = self._children.find(BUILDERS, work.key, before.ref)
        same = before.content == content and there is not None
        if same and (before.state == "Canceled" or self._failures.waits(work, content)):
            work.build = before
            return False, None
        return await self._carry_out(work, run, before)

    def _recorded(self, work: Work, content: str) -> BuildResult | None:
        """Return the finished build of this content, that of a kept revision included."""
        record = work.record
        if record.content != content:
            kept = next((one for one in reversed(record.revisions) if self._same(work, one, content)), None)
            if kept is None:
                return None
            record = replace(record, content=content, build=kept.build, builder=kept.builder)
        result = BuildResult.from_refs(record.build)
        if result is None or not self._built(result):
            return None
        work.record = record
        return result

    def _same(self, work: Work, kept: KeptRevision, content: str) -> bool:
        """Tell whether a kept revision was built from this very content.

        The hash covers where the source is, not what it holds: that is known by its digest, or because
        somebody went back to that revision.
        """
        notes = work.function.annotations
        known = SOURCE_DIGEST in notes or notes.get(ROLLED_BACK_TO) == kept.desired.revision
        return known and kept.content == content

    async def _carry_out(self, work: Work, run: BuildRun, before: Phase) -> tuple[bool, BuildResult | None]:
        content = work.plan.build_hash
        failed = self._children.find(BUILDERS, work.key, before.ref)
        again = failed is not None and before.content == content and before.state in ("Failed", "Timeout")
        # A try that is repeated shows only when it ends differently.
        builder = failed if failed is not None and again else await self._open(work, content)
        began = self._clock.monotonic()
        base = Phase(
            state="Building", ref=builder.name, last_successful=before.last_successful, content=content
        )
        work.build = base
        if not again:
            await self._statuses.write(work, work.held())
            await self._recorder.record(work.obj, "BuildStarted", "the source is being built")
        _log.info("%s: building", work.key)
        self._running[work.key] = builder.name
        try:
            # The limit counts from the Builder's creation, which may have been before a restart.
            spent_s = 0.0 if again else builder.age_s(self._clock.now())
            left_s = max(0.001, run.timeout_s - spent_s) if run.timeout_s else 0.0
            result = await self._guard.run(work, self._build(run, work.function), left_s)
        except TimeoutError:
            message = f"the build did not finish within {run.timeout_s:g} s; raise spec.build.timeout"
            self._failures.note(work, content)
            work.build = replace(base, state="Timeout", message=message, duration=f"{int(run.timeout_s)}s")
        except SupersededError:
            cancelled = work.key in self._cancelled
            self._cancelled.discard(work.key)
            message = "ended by spec.state of its Builder" if cancelled else "the Function has changed"
            work.build = replace(base, state="Canceled", message=message)
            if not cancelled:
                await self._close(work, builder, began, None)
                raise
        except Exception as error:
            if not isinstance(error, PeltonError):
                _log.exception("%s: the builder broke", work.key)
            self._failures.note(work, content)
            tail = error.log_tail if isinstance(error, BuildError) else ()
            work.build = replace(
                base, state="Failed", reason=reason_of(error), message=sentence_of(error), log_tail=tail
            )
        else:
            self._failures.forget(work.key)
            duration = f"{int(self._clock.monotonic() - began)}s"
            work.digest = result.digest
            work.build = replace(base, state="Succeeded", last_successful=builder.name, duration=duration)
            work.record = work.record.with_build(content, result, builder.name)
            await self._close(work, builder, began, result)
            return True, result
        finally:
            self._running.pop(work.key, None)
        await self._close(work, builder, began, None)
        return False, None

    async def _open(self, work: Work, content: str) -> Child:
        """Return the Builder of this content: one that a restart interrupted, else a new one."""
        for child in self._children.of(BUILDERS, work.key):
            if child.content == content and not child.finished and not child.cancelled:
                await self._cancel_others(work, child.name)
                return child
        await self._cancel_others(work, "")
        build = work.function.build
        successful = build.successful_builds_history_limit if build else None
        failed = build.failed_builds_history_limit if build else None
        pruned = pruned_builders(
            self._children.of(BUILDERS, work.key),
            successful=_SUCCESSFUL if successful is None else successful,
            failed=_FAILED if failed is None else failed,
        )
        await self._children.delete(BUILDERS, work.function.namespace, pruned)
        return await self._children.create(BUILDERS, builder_object(work.filled, content=content))

    async def _cancel_others(self, work: Work, name: str) -> None:
        """End the Builders that are unfinished, but for one: the Function has changed since."""
        for child in self._children.of(BUILDERS, work.key):
            if child.finished or child.name == name:
                continue
            namespace = work.function.namespace
            await self._children.cancel(namespace, child.name)
            status = builder_status("Canceled", message="the Function has changed")
            await self._children.set_status(BUILDERS, namespace, child.name, status)

    async def _close(self, work: Work, builder: Child, began: float, result: BuildResult | None) -> None:
        """Write how a build ended, into its Builder and as an Event."""
        phase = work.build
        status = builder_status(
            phase.state,
            reason=phase.reason,
            message="\n".join(line for line in (phase.message, *phase.log_tail) if line),
            duration_s=self._clock.monotonic() - began,
            result=result,
        )
        await self._children.set_status(BUILDERS, work.function.namespace, builder.name, status)
        reason = {"Succeeded": "BuildCompleted"}.get(phase.state, f"Build{phase.state}")
        await self._recorder.record(work.obj, reason, phase.message or "the build is done")
