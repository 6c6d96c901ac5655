"""Averages over rings of buckets: Knative's one-second windows, and the HTTP add-on's request rate.

`Buckets` adds up what is recorded in a bucket, as upstream does with samples that come once a second.
`Window` takes the load of an interval instead and keeps the average by time per bucket, so that ten looks a
second weigh no more than one (design decision 12), and a 1 ms request counts as what it was.
`autoscale/kpa.py` decides on two of these; `controlplane/autoscaler.py` and `autoscale/simulate.py` fill
them. Pure: `now` is passed in.

Source: Knative Serving, pkg/autoscaler/aggregation (contracts, autoscaling sections 5.6 and 6.2).
"""

from __future__ import annotations

from functools import lru_cache
from math import floor
from operator import mul
from typing import Any

__all__ = ["SMALLEST", "Buckets", "Ring", "Window", "smoothing"]

SMALLEST = 1e-6
"""What a Window with any traffic yields at least; also the rounding of averages."""
_WEIGHT = 0.9999
_LEAST_SMOOTHING = 0.2
_MOST_WEIGHTS = 256
_LOST = 1e17  # what is less than one part in so many is lost in rounding


def smoothing(buckets: int) -> float:
    """Return the factor of the newest bucket, so that all of them weigh 0.9999 together; at least 0.2."""
    return max(_LEAST_SMOOTHING, 1.0 - float((1.0 - _WEIGHT) ** (1.0 / buckets)))


@lru_cache(maxsize=64)
def _weights(size: int) -> tuple[float, ...]:
    """Return the weights of the newest buckets, as many as can matter beside the first of them."""
    factor = smoothing(size)
    return tuple(factor * (1.0 - factor) ** back for back in range(min(size, _MOST_WEIGHTS)))


class Buckets:
    """Sums per bucket over the last `size` buckets; times are indices of buckets.

    Args:
        size: Buckets in the ring, >= 1.
    """

    __slots__ = ("_first", "_last", "_total", "_values", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._values = [0.0] * size
        self._total = 0.0
        self._first = 0  # index of the first write since the last silence
        self._last: int | None = None  # index of the newest write

    def record(self, index: int, value: float) -> None:
        """Add a value to a bucket; buckets between the newest and this one count as zero.

        Args:
            index: Index of the bucket; one older than the ring is ignored.
            value: >= 0.
        """
        if self._advance(index):
            self._values[index % self.size] += value
            self._total += value

    def _advance(self, index: int) -> bool:
        """Make room for a bucket; False when it is older than the ring."""
        last, size = self._last, self.size
        if last == index:
            return True
        if last is None or index - last > size:
            self._values = [0.0] * size
            self._total = 0.0
            self._first = self._last = index
            return True
        if index < last:
            if last - index >= size:
                return False
            self._first = min(self._first, index)
            return True
        values = self._values
        for expired in range(last + 1, index + 1):
            slot = expired % size
            self._total -= values[slot]
            values[slot] = 0.0
        self._last = index
        return True

    def empty(self, index: int) -> bool:
        """Return whether nothing was recorded within one length of the ring."""
        return self._last is None or index - self._last > self.size

    def average(self, index: int) -> float:
        """Return the linear average, rounded to 6 decimals; gaps are zeros, what comes after is not."""
        last = self._last
        if last is None:
            return 0.0
        size, total, gap = self.size, self._total, index - last
        if gap <= 0:
            return max(0.0, round(total / min(last - self._first + 1, size), 6))
        if gap >= size:
            return 0.0
        values = self._values
        for expired in range(last + 1, index + 1):
            total -= values[expired % size]
        return max(0.0, round(total / min(last - self._first + 1, size - gap), 6))

    def weighted(self, index: int) -> float:
        """Return the exponentially weighted sum, newest bucket first; idle buckets shift the weights."""
        last = self._last
        if last is None or index - last > self.size:
            return 0.0
        size, values, slot = self.size, self._values, last % self.size
        gap = max(0, index - last)
        valid, weights = size - gap, _weights(size)
        count = min(valid, len(weights))
        newest = values[slot::-1] if slot < count else values[slot : slot - count : -1]
        if slot + 1 < count:
            newest += values[: size - (count - slot) : -1]
        result = float(sum(map(mul, newest, weights)))
        if count < valid and result < abs(self._total) * weights[-1] * _LOST:
            # The newest are nothing beside what is older: the rest counts as well.
            weight = weights[-1]
            for back in range(count, valid):
                weight *= 1.0 - weights[0]
                result += values[(last - back) % size] * weight
        return result * float((1.0 - weights[0]) ** gap) if gap else result

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "size": self.size,
            "values": list(self._values),
            "total": self._total,
            "first": self._first,
            "last": self._last,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Buckets:
        """Return what `to_dict` described."""
        made = cls(state["size"])
        made._values = [float(value) for value in state["values"]]
        made._total, made._first, made._last = float(state["total"]), state["first"], state["last"]
        return made


class Ring:
    """Requests per bucket as KEDA's HTTP add-on averages them.

    Args:
        window_s: Length, seconds.
        granularity_s: Length of a bucket, seconds.
    """

    __slots__ = ("_buckets", "granularity_s", "window_s")

    def __init__(self, window_s: float, granularity_s: float) -> None:
        self.window_s, self.granularity_s = window_s, granularity_s
        self._buckets = Buckets(max(1, -int(-window_s // granularity_s)))

    def record(self, now: float, count: float) -> None:
        """Add requests to the bucket of this moment; after a silent window it begins anew."""
        index = floor(now / self.granularity_s)
        last = self._buckets._last
        if last is not None and index - last >= self._buckets.size:
            self._buckets = Buckets(self._buckets.size)
        self._buckets.record(index, count)

    def average(self, now: float) -> float:
        """Return requests per bucket, rounded to 3 decimals; 0 after a silent window."""
        buckets, index = self._buckets, floor(now / self.granularity_s)
        last = buckets._last
        if last is None or index - last >= buckets.size:
            return 0.0
        total = buckets._total
        for expired in range(last + 1, index + 1):
            total -= buckets._values[expired % buckets.size]
        count = min(max(index, last) - buckets._first + 1, buckets.size)
        return max(0.0, round(total / count, 3))

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "window": self.window_s,
            "granularity": self.granularity_s,
            "buckets": self._buckets.to_dict(),
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Ring:
        """Return what `to_dict` described."""
        made = cls(state["window"], state["granularity"])
        made._buckets = Buckets.from_dict(state["buckets"])
        return made


class Window:
    """Average load over the last `seconds` one-second buckets, filled with intervals.

    Args:
        seconds: Length of the window, >= 1.
    """

    __slots__ = ("_active", "_buckets", "_covered", "_integral", "_stamp", "seconds")

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._buckets = Buckets(seconds)
        self._integral = [0.0] * seconds
        self._covered = [0.0] * seconds
        self._stamp = [-1] * seconds  # which second the two lists hold, per slot
        self._active: int | None = None  # index of the newest second with traffic

    def add(self, start: float, end: float, integral: float, *, active: bool) -> None:
        """Add what happened from `start` to `end`, spread evenly over that time.

        Args:
            start: Seconds on the caller's clock.
            end: The same clock, > start; intervals come in order and do not overlap.
            integral: Load times seconds in that interval, >= 0.
            active: Whether anything ran, waited or began; also true for work too short to leave an integral.
        """
        if end <= start:
            return
        if active:
            # An interval that ends on a boundary belongs to the second before it.
            moment = floor(end) if end > floor(end) else floor(end) - 1
            self._active = moment if self._active is None else max(self._active, moment)
        rate = integral / (end - start)
        index = floor(start)
        if end - index > self.seconds:
            index = floor(end) - self.seconds + 1
        while index < end:
            part = min(end, index + 1.0) - max(start, float(index))
            if part > 0.0:
                self._put(index, rate * part, part)
            index += 1

    def count(self, now: float, number: float, *, active: bool) -> None:
        """Add so many to the second of `now`: counts add up, as upstream's do, and are not averaged by time.

        Args:
            now: Seconds on the caller's clock.
            number: >= 0.
            active: As in `add`.
        """
        if active:
            self._active = floor(now)
        self._buckets.record(floor(now), number)

    def touch(self, now: float) -> None:
        """Say that the window is not silent, without any data: what came before `now` is not known."""
        self._active = floor(now)

    def _put(self, index: int, integral: float, seconds: float) -> None:
        slot = index % self.seconds
        before = 0.0
        if self._stamp[slot] == index:
            before = self._integral[slot] / self._covered[slot]
        else:
            self._stamp[slot] = index
            self._integral[slot] = self._covered[slot] = 0.0
        self._integral[slot] += integral
        self._covered[slot] += seconds
        self._buckets.record(index, self._integral[slot] / self._covered[slot] - before)

    def average(self, now: float, *, weighted: bool = False) -> float:
        """Return the average.

        While the window holds any traffic it is at least SMALLEST: short requests keep their instance.
        """
        index = floor(now)
        value = self._buckets.weighted(index) if weighted else self._buckets.average(index)
        return value if value >= SMALLEST or self.silent(now) else SMALLEST

    def silent(self, now: float) -> bool:
        """Return whether nothing ran, waited or began in the whole window."""
        return self._active is None or floor(now) - self._active >= self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the state as plain data for JSON."""
        return {
            "buckets": self._buckets.to_dict(),
            "integral": list(self._integral),
            "covered": list(self._covered),
            "stamp": list(self._stamp),
            "active": self._active,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Window:
        """Return what `to_dict` described."""
        made = cls(state["buckets"]["size"])
        made._buckets = Buckets.from_dict(state["buckets"])
        made._integral = [float(value) for value in state["integral"]]
        made._covered = [float(value) for value in state["covered"]]
        made._stamp, made._active = list(state["stamp"]), state["active"]
        return made
