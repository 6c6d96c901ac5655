"""What scaling with the load costs against an oracle, and against as many workers as the peak needs.

Nothing runs here but the product's own autoscaler (`controlplane/autoscaler`, `autoscale/`) on a clock that
is moved by hand through 24 hours; everything around it is a model:

- The trace is that of a service whose log lines call a function: a day's curve with silence from midnight to
  six but for lone requests, noise, and 60 bursts at any hour that rise in seconds and decay in minutes;
  Poisson arrivals in steps of 0.1 s. One fixed seed; see `trace`.
- A request keeps one slot of an instance busy for SERVICE_S; requests without a slot wait in the
  activator's queue. An instance is ready one step (0.1 s) after it was asked for, and when it is given up it
  is paid for until what may run on it has ended (SERVICE_S).
- As in the node, the autoscaler looks every 0.1 s while there are instances or work, and forgets a function
  that is at zero. The last instance stays for the whole window, as in the product.
- The oracle has in every second exactly the instances which that second's concurrency needs at the same
  target per instance, and none without requests. The peak is its largest number.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.table import Row
from pelton.controlplane.autoscaler import Autoscaler, kpa_policy
from pelton.model.desired import Scaling
from pelton.model.snapshot import LoadReading
from pelton.testing.clock import FakeClock

__all__ = ["Outcome", "ideal", "rows", "simulate", "trace"]

DAY_S = 24 * 3600
STEP_S = 0.1
SERVICE_S = 0.2
CONCURRENCY = 10
"""Slots of an instance, and the target of the autoscaler before utilization."""
SEED = 20260101
_BURSTS = 60
_LONE_MEAN_S = 300.0
_WINDOWS_S = (60, 6)


@dataclass(frozen=True)
class Outcome:
    """What a simulation showed.

    Attributes:
        instance_s: Instances times seconds.
        most: Most instances at one time.
        requests: How many came.
        waited: How many of them found no free slot when they came.
        wait_p999_s: Longest wait of 99.9 % of all requests, seconds.
    """

    instance_s: float
    most: int
    requests: int
    waited: int
    wait_p999_s: float


def trace(seconds: int = DAY_S, seed: int = SEED) -> list[int]:
    """Return how many requests come in each step of STEP_S."""
    rng = random.Random(seed)
    rate = [_daily(second % DAY_S) for second in range(seconds)]
    level = 0.0
    for second in range(seconds):
        level = 0.98 * level + rng.gauss(0.0, 0.06)
        rate[second] *= math.exp(level)
    for _ in range(max(1, round(_BURSTS * seconds / DAY_S))):
        start = rng.randrange(seconds)
        height = min(3000.0, 120.0 * rng.paretovariate(1.1))
        decay_s = rng.lognormvariate(math.log(90.0), 0.8)
        for offset in range(min(seconds - start, int(8 * decay_s) + 4)):
            shape = min(1.0, (offset + 1) / 3.0) * math.exp(-max(0, offset - 3) / decay_s)
            rate[start + offset] += height * shape if height * shape >= 0.5 else 0.0
    moment = rng.expovariate(1 / _LONE_MEAN_S)
    lone = set()
    while moment < seconds:
        lone.add(int(moment / STEP_S))
        moment += rng.expovariate(1 / _LONE_MEAN_S)
    steps = round(1 / STEP_S)
    return [
        _poisson(rng, rate[index // steps] * STEP_S) + (index in lone) for index in range(seconds * steps)
    ]


def _daily(second: int) -> float:
    """Return the base rate, requests/s: none before six, most in the early afternoon."""
    hour = second / 3600
    return 250.0 * math.sin(math.pi * (hour - 6) / 18) ** 2 if hour > 6 else 0.0


def _poisson(rng: random.Random, mean: float) -> int:
    if mean <= 0.0:
        return 0
    if mean > 30.0:
        return max(0, round(rng.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def ideal(arrivals: Sequence[int], per_instance: float, service_s: float = SERVICE_S) -> list[int]:
    """Return the instances that each second needs.

    Args:
        arrivals: Requests per step of STEP_S.
        per_instance: Concurrent requests that one instance is meant to have.
        service_s: Seconds that a request takes.
    """
    steps = round(1 / STEP_S)
    return [
        math.ceil(round(sum(arrivals[at : at + steps]) * service_s / per_instance, 9))
        for at in range(0, len(arrivals), steps)
    ]


def simulate(arrivals: Sequence[int], scaling: Scaling) -> Outcome:
    """Run the autoscaler through a trace."""
    clock = FakeClock()
    began = clock.monotonic()
    autoscaler = Autoscaler(clock)
    hold = round(SERVICE_S / STEP_S)  # steps that a request keeps its slot
    ends: deque[int] = deque([0] * hold)  # requests that end at the end of each of the next steps
    leaving: deque[int] = deque([0] * hold)
    waiting: deque[tuple[int, int]] = deque()  # (step in which they came, how many)
    waits: dict[int, int] = {}
    running = queued = ready = wanted = total = waited = most = 0
    busy_s = instance_s = 0.0
    for step, came in _steps(arrivals, hold):
        if not (came or queued or running or ready or wanted or any(leaving)):
            continue
        _move(clock, began + step * STEP_S)
        ready = max(ready, wanted)
        leaving.popleft()
        leaving.append(0)
        running -= ends.popleft()
        ends.append(0)
        if came:
            waiting.append((step, came))
            queued += came
        begun = min(queued, ready * CONCURRENCY - running) if ready * CONCURRENCY > running else 0
        waited += max(0, came - begun) if came else 0
        running, queued, total = running + begun, queued - begun, total + begun
        ends[-1] += begun
        _take(waiting, begun, step, waits)
        busy_s += running * STEP_S
        reading = LoadReading(
            in_flight=running, total=total, queued=0, busy_ns=round(busy_s * 1e9), at_ns=round(step * 1e8)
        )
        instance_s += (ready + sum(leaving)) * STEP_S
        most = max(most, ready)
        if not (ready or queued):
            autoscaler.forget("default/f")
            wanted = 0
            continue
        _move(clock, began + (step + 1) * STEP_S)
        wanted = autoscaler.observe(
            "default/f", scaling, {"all": reading}, queued=queued, pending=0, ready=ready
        ).desired
        if wanted < ready:
            leaving[-1] += ready - wanted
            ready = wanted
        elif not wanted and queued:
            wanted = 1
    return Outcome(instance_s, most, sum(arrivals), waited, _quantile(waits, 0.999) * STEP_S)


def _steps(arrivals: Sequence[int], more: int) -> Iterator[tuple[int, int]]:
    yield from enumerate(arrivals)
    yield from ((len(arrivals) + index, 0) for index in range(more))


def _move(clock: FakeClock, to: float) -> None:
    """Move the clock without turns of a loop: nobody sleeps on it, and there are a million steps."""
    clock._monotonic = to


def _take(waiting: deque[tuple[int, int]], begun: int, step: int, waits: dict[int, int]) -> None:
    """Take what begins out of the queue, oldest first, and note how many steps it waited."""
    while begun:
        came, count = waiting.popleft()
        taken = min(count, begun)
        waits[step - came] = waits.get(step - came, 0) + taken
        begun -= taken
        if taken < count:
            waiting.appendleft((came, count - taken))


def _quantile(counts: dict[int, int], share: float) -> int:
    left = sum(counts.values()) * (1 - share)
    for value in sorted(counts, reverse=True):
        left -= counts[value]
        if left <= 0:
            return value
    return 0


def rows() -> list[Row]:
    """Simulate and return the lines for a table; about 40 s."""
    arrivals = trace()
    found = []
    for window_s in _WINDOWS_S:
        scaling = Scaling(max_replicas=0, target=CONCURRENCY, utilization=0.7, window_s=window_s)
        needed = ideal(arrivals, kpa_policy(scaling).target)
        outcome = simulate(arrivals, scaling)
        hours = outcome.instance_s / 3600
        which = f"elasticity, window {window_s} s" + (" (default)" if window_s == 60 else "")
        found += [
            Row(
                f"{which}: instance-hours against the ideal",
                hours,
                sum(needed) / 3600,
                "h",
                "<= 1.2",
                note=f"{outcome.requests} requests; 99.9 % waited under "
                f"{outcome.wait_p999_s + STEP_S:.1f} s; "
                f"{100 * outcome.waited / outcome.requests:.2f} % found no free slot",
            ),
            Row(
                f"{which}: instance-hours against a set for the peak",
                hours,
                max(needed) * len(needed) / 3600,
                "h",
                "<= 0.2",
                note=f"peak {max(needed)}, most instances {outcome.most}",
            ),
        ]
    return found
