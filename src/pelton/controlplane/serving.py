"""The serving of a Function: revisions checked, rolled out, applied, kept, and dropped.

`controlplane/reconciler.py` calls `serve` when the build is there. `plan/rollout` says how far a new
revision has come, `plan/traffic` who gets what, `plan/diff` what is to be done; this carries it out and keeps
a Serving per revision. A revision that does not load gets no traffic; what served before it goes on.

Source: contracts, OpenFunction, sections 6 and 8.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from pelton import log
from pelton.clock import Clock
from pelton.controlplane.children import SERVINGS, Children
from pelton.controlplane.events import Recorder
from pelton.controlplane.revisions import KeptRevision
from pelton.controlplane.work import Failures, Guard, Statuses, SupersededError, Work, reason_of, sentence_of
from pelton.errors import PeltonError
from pelton.manifest import openfunction_core
from pelton.model.build import BuildResult
from pelton.model.desired import Desired, Workload
from pelton.model.snapshot import CheckResult
from pelton.plan import rollout, traffic
from pelton.plan.conditions import Phase, of_problems
from pelton.plan.diff import Action, Apply, Check, Remove, diff
from pelton.plan.function import plan
from pelton.plan.history import as_written, pruned_revisions, serving_object, serving_status, written
from pelton.plan.names import content_hash
from pelton.ports import Target

__all__ = ["Checker", "Serving"]

Checker = Callable[[Workload], Awaitable[CheckResult]]
_FAILED_STARTS = 3
"""Starts in a row that may fail before a new revision counts as broken; one can be an accident."""
_log = log.get(__name__)


class _CheckFailedError(Exception):
    def __init__(self, result: CheckResult) -> None:
        super().__init__(result.message)
        self.result = result


class Serving:
    """Serves, for all Functions.

    Args:
        check: Loads a revision once in a short-lived child.
        target: Where desired state becomes real.
        children: Servings.
        statuses: Writes the outcome.
        failures: What failed is not tried again at once.
        guard: Ends what is superseded.
        recorder: Events.
        clock: For steps of rollouts.
    """

    def __init__(
        self,
        *,
        check: Checker,
        target: Target,
        children: Children,
        statuses: Statuses,
        failures: Failures,
        guard: Guard,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._check = check
        self._target = target
        self._children = children
        self._statuses = statuses
        self._failures = failures
        self._guard = guard
        self._recorder = recorder
        self._clock = clock
        self._applied: dict[str, int] = {}  # key -> number of the telling that it was last applied for

    def is_behind(self, key: str, kicks: int) -> bool:
        """Tell whether a Function was last applied before the target forgot."""
        return self._applied.get(key, 0) < kicks

    def forget(self, key: str) -> None:
        """Drop what is remembered of a Function that is gone."""
        self._applied.pop(key, None)

    async def serve(self, work: Work) -> None:
        """Bring a Function's revisions a step or all the way; writes the status."""
        before, wanted = work.before("serving"), work.plan.desired
        problems = list(work.plan.problems)
        if not problems and wanted is not None:
            known = {*work.record.names(), wanted.revision}
            problems += traffic.missing(work.function, work.plan.traffic, known)
        if problems:
            reason, message = of_problems(problems)
            await self.keep(work)
            phase = Phase(
                state="Failed",
                reason=reason,
                message=message,
                ref=before.ref,
                last_successful=before.last_successful,
                revision=before.revision,
            )
            await self._statuses.write(work, phase)
        elif wanted is None:
            await self._end(work)
        else:
            await self._bring(work, wanted, before)

    async def _end(self, work: Work) -> None:
        """Take the workload of a Function away that is built only."""
        await self._act(diff(work.live, None))
        servings = [child.name for child in self._children.of(SERVINGS, work.key)]
        await self._children.delete(SERVINGS, work.function.namespace, servings)
        work.record = replace(work.record, live=None, latest="", stable="", revisions=())
        work.live, work.rollout = None, None
        await self._statuses.write(work, Phase(state="Skipped"))

    async def _bring(self, work: Work, wanted: Desired, before: Phase) -> None:
        revision, content = wanted.revision, content_hash(wanted.workload)
        failed_before = before.state in ("Failed", "Timeout") and before.content == content
        there = self._children.find(SERVINGS, work.key, before.ref)
        if failed_before and there is not None:
            if work.key not in self._failures:
                self._failures.note(work, content)  # known from before a restart: not at once again
            if self._failures.waits(work, content):
                await self.keep(work)
                await self._statuses.write(work, before)
                return
        serving = await self._serving(work, wanted, before)
        stable = self._stable(work)
        phase = Phase(
            state="Running",
            ref=serving,
            last_successful=stable.serving if stable is not None else "",
            content=content,
            revision=revision,
        )
        if revision != work.record.latest and not failed_before:
            await self._statuses.write(work, replace(phase, state="Starting"))
            await self._recorder.record(work.obj, "Starting", f"starting {revision}")
        failure = await self._carry_out(work, wanted, phase)
        if failure is not None:
            await self._children.set_status(
                SERVINGS,
                work.function.namespace,
                serving,
                serving_status(failure.state, reason=failure.reason, message=failure.message),
            )
            await self._recorder.record(work.obj, _event(failure.state), failure.message)
            await self._statuses.write(work, failure)
            return
        self._failures.forget(work.key)
        self._applied[work.key] = work.kicks
        await self._settle(work, wanted, phase)

    # -- carrying out ----------------------------------------------------------------------------------------

    async def _carry_out(self, work: Work, wanted: Desired, phase: Phase) -> Phase | None:
        """Check and apply; returns the phase to show when the content failed, else None."""
        serving = work.function.serving
        timeout_s = (serving.timeout_s if serving else None) or 0.0
        try:
            await self._guard.run(work, self._roll(work, wanted), timeout_s)
        except _CheckFailedError as error:
            self._failures.note(work, phase.content)
            await self.keep(work)
            result = error.result
            return replace(
                phase,
                state="Failed",
                reason=result.reason or "LoadFailed",
                message=result.message,
                log_tail=result.log_tail,
            )
        except TimeoutError:
            self._failures.note(work, phase.content)
            await self.keep(work, rolled=True)
            message = f"not running within {timeout_s:g} s; raise spec.serving.timeout"
            return replace(phase, state="Timeout", message=message)
        except SupersededError:
            raise
        except Exception as error:
            # Not the content's fault as far as is known: shown, and tried again by the queue. The target may
            # take what it was told for done, so it is told again.
            self._applied[work.key] = -1
            shown = replace(phase, state="Starting", reason=reason_of(error), message=sentence_of(error))
            await self._statuses.write(work, shown)
            raise
        return None

    async def _roll(self, work: Work, wanted: Desired) -> None:
        """Check what is new, take the rollout a step on, and make the target run what follows."""
        checked = {*_live(work.observed), *_live(work.record.live), work.record.latest}
        if wanted.revision not in checked:
            await self._act((Check(workload=wanted.workload),))
        work.rollout = self._advance(work, wanted)
        arranged = self._arrange(work, wanted)
        actions = diff(work.observed, arranged, checked={*checked, wanted.revision})
        if not actions and work.forced:
            actions = (Apply(desired=arranged, changes=("asked again",)),)
        await self._act(actions)
        work.live = arranged

    def _advance(self, work: Work, wanted: Desired) -> rollout.Rollout | None:
        back = work.function.annotations.get(rollout.ROLLED_BACK_TO) == wanted.revision
        stable = self._stable(work)
        action, _ = traffic.annotation(work.function, rollout.ACTION)
        return rollout.advance(
            rollout.Rollout.from_status(work.status),
            revision=wanted.revision,
            stable=stable.desired.revision if stable is not None else "",
            steps=() if back or wanted.route is None else work.plan.steps,
            action=action,
            failure=_failure(work, wanted.revision),
            now=self._clock.now(),
        )

    def _arrange(self, work: Work, wanted: Desired) -> Desired:
        if wanted.route is None:
            return wanted
        kept = {one.desired.revision: one for one in work.record.revisions}
        under_way = work.rollout
        # Without the one before, which an older version may have recorded, there is nothing to share with.
        if under_way is not None and (under_way.state == "Completed" or under_way.stable not in kept):
            under_way = None
        decided = traffic.layout(
            wanted.revision,
            work.plan.traffic,
            stable=under_way.stable if under_way is not None else "",
            weight=under_way.weight if under_way is not None else 100,
        )
        others = {name: _fresh(work, kept[name]) for name in decided.live if name != wanted.revision}
        return traffic.arrange(decided, wanted, others)

    async def _act(self, actions: tuple[Action, ...]) -> None:
        for action in actions:
            match action:
                case Check(workload=workload):
                    result = await self._check(workload)
                    if not result.ok:
                        raise _CheckFailedError(result)
                case Apply(desired=desired, changes=changes):
                    load = desired.workload
                    _log.info("%s: applying %s (%s)", load.key, load.revision, ", ".join(changes))
                    await self._target.apply(desired)
                case Remove(namespace=namespace, name=name):
                    _log.info("%s/%s: removing", namespace, name)
                    await self._target.remove(namespace, name)

    async def keep(self, work: Work, *, rolled: bool = False) -> None:
        """Make sure that the previous revision serves where the wanted one cannot.

        Args:
            work: The pass.
            rolled: The target may have been told of the wanted one already.
        """
        if work.live is not None and (work.observed is None or work.forced or rolled):
            await self._target.apply(work.live)
            self._applied[work.key] = work.kicks

    # -- what is kept ----------------------------------------------------------------------------------------

    def _stable(self, work: Work) -> KeptRevision | None:
        return work.record.find(work.record.stable)

    async def _serving(self, work: Work, wanted: Desired, before: Phase) -> str:
        """Return the name of the Serving of what is wanted; made when there is none, or it is back again."""
        current = self._children.find(SERVINGS, work.key, before.ref)
        if current is not None and current.revision == wanted.revision:
            return current.name
        await self._drop_servings(work, {kept.serving for kept in work.record.revisions})
        made = serving_object(work.filled, revision=wanted.revision, digest=work.digest)
        return (await self._children.create(SERVINGS, made)).name

    async def _settle(self, work: Work, wanted: Desired, phase: Phase) -> None:
        """Record a revision that serves, or whose rollout goes on; drop what nobody needs any more."""
        now = work.rollout
        over = now is None or now.state == "Completed"
        aborted = now is not None and now.state == "Aborted"
        work.latest = wanted.revision
        if over:
            phase = replace(phase, last_successful=phase.ref)
        if aborted and now is not None:
            phase = replace(phase, state="Canceled", reason="RolloutAborted", message=now.message)
        await self._remember(work, wanted, phase, over=over)
        await self._tell(work, phase)
        if now is not None:
            work.again(now.wait_s(self._clock.now()))
        await self._statuses.write(work, phase)

    async def _remember(self, work: Work, wanted: Desired, phase: Phase, *, over: bool) -> None:
        record, revision = work.record, wanted.revision
        this = KeptRevision(
            desired=wanted,
            serving=phase.ref,
            builder=record.builder if work.plan.build is not None else "",
            content=work.plan.build_hash,
            build=record.build if work.plan.build is not None else {},
            written=written(work.filled),
        )
        others = [kept for kept in record.revisions if kept.desired.revision != revision]
        revisions = [*others, this]
        if record.latest == revision and len(others) < len(record.revisions):
            revisions = [this if kept.desired.revision == revision else kept for kept in record.revisions]
        stable = revision if over else record.stable
        in_use = {revision, stable, *_live(work.live), *traffic.referred(work.plan.traffic)}
        revisions = await self._recreate(work, revisions, in_use)
        names = [kept.desired.revision for kept in revisions]
        gone = set(pruned_revisions(names, in_use=in_use, limit=work.plan.history))
        kept = tuple(one for one in revisions if one.desired.revision not in gone)
        work.record = replace(record, live=work.live, latest=revision, stable=stable, revisions=kept)
        await self._drop_servings(work, {one.serving for one in kept})

    async def _recreate(
        self, work: Work, revisions: list[KeptRevision], in_use: set[str]
    ) -> list[KeptRevision]:
        """Return the revisions whose Serving is there: deleting one drops its revision, unless it serves."""
        found: list[KeptRevision] = []
        for kept in revisions:
            if self._children.find(SERVINGS, work.key, kept.serving) is not None:
                found.append(kept)
            elif kept.desired.revision in in_use:
                result = BuildResult.from_refs(kept.build)
                made = serving_object(
                    as_written(work.filled, kept.written),
                    revision=kept.desired.revision,
                    digest=result.digest if result is not None else "",
                )
                child = await self._children.create(SERVINGS, made)
                found.append(replace(kept, serving=child.name))
        return found

    async def _drop_servings(self, work: Work, keep: set[str]) -> None:
        gone = [child.name for child in self._children.of(SERVINGS, work.key) if child.name not in keep]
        await self._children.delete(SERVINGS, work.function.namespace, gone)

    async def _tell(self, work: Work, phase: Phase) -> None:
        """Write what changed into the Serving and as Events."""
        child = self._children.find(SERVINGS, work.key, phase.ref)
        if child is not None and child.state != phase.state:
            status = serving_status(
                phase.state, reason=phase.reason, message=phase.message, service=work.function.name
            )
            await self._children.set_status(SERVINGS, work.function.namespace, phase.ref, status)
            await self._recorder.record(
                work.obj, _event(phase.state), phase.message or f"{phase.revision} runs"
            )
        then, now = rollout.Rollout.from_status(work.status), work.rollout
        if now is not None and (then is None or (then.state, then.step) != (now.state, now.step)):
            text = f"{now.weight} % of the traffic to {now.revision}"
            await self._recorder.record(work.obj, f"Rollout{now.state}", now.message or text)


def _fresh(work: Work, kept: KeptRevision) -> Desired:
    """Return what a kept revision needs by the facts of now, e.g. a changed Secret.

    As it was recorded when it cannot be planned any more, or is planned as another revision.
    """
    try:
        function, _ = openfunction_core.decode(as_written(work.filled, kept.written))
    except PeltonError:
        return kept.desired
    again = plan(function, work.facts, BuildResult.from_refs(kept.build)).desired
    if again is None or again.revision != kept.desired.revision:
        return kept.desired
    return again


def _event(state: str) -> str:
    """Return the reason of the Event about a serving's state."""
    return {"Running": "Running", "Failed": "ServingFailed"}.get(state, f"Serving{state}")


def _live(desired: Desired | None) -> tuple[str, ...]:
    """Return the revisions of what was applied."""
    return (desired.revision, *(other.revision for other in desired.others)) if desired is not None else ()


def _failure(work: Work, revision: str) -> str:
    """Return why a revision's instances do not start; "" while they do, or none was needed."""
    seen = work.seen.revisions if work.seen is not None else ()
    return next(
        (
            f"its instances do not start: {one.failure}"
            for one in seen
            if one.revision == revision and one.failures >= _FAILED_STARTS
        ),
        "",
    )
