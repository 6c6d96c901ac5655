"""A sliding average of load in one-second buckets, as Knative's autoscaler keeps one.

Load arrives as an integral (concurrent invocations times seconds) over an interval, so a bucket holds the
average by time of what happened in it, and a 1 ms request counts as what it was. `autoscale/kpa.py` decides
on two of these, a stable and a panic one; `controlplane/autoscaler.py` fills them. Pure: `now` is passed in.

Source: Knative Serving, pkg/autoscaler/aggregation (linear weighting; contracts, autoscaling section 6.2).
"""

from __future__ import annotations

from math import floor

__all__ = ["SMALLEST", "Window", "panic_window_s"]

SMALLEST = 1e-6
"""What a window with any traffic yields at least, concurrent invocations; also the rounding of averages."""


def panic_window_s(window_s: float, percentage: float) -> int:
    """Return the panic window in whole seconds, at least 1, halves rounded up.

    Args:
        window_s: Stable window, seconds.
        percentage: Panic window as percent of it.
    """
    return max(1, floor(window_s * percentage / 100.0 + 0.5))


class Window:
    """Average concurrency over the last `seconds` one-second buckets.

    Args:
        seconds: Length of the window, >= 1.
    """

    __slots__ = ("_active", "_covered", "_first", "_integral", "_last", "_total", "seconds")

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._integral = [0.0] * seconds
        self._covered = [0.0] * seconds
        self._total = 0.0  # sum of the averages of all buckets in the ring
        self._first = 0  # index (whole seconds) of the first write since the last silence
        self._last: int | None = None  # index of the newest write
        self._active: int | None = None  # index of the newest second with traffic

    def add(self, start: float, end: float, integral: float, *, active: bool) -> None:
        """Add what happened from `start` to `end`, spread evenly over that time.

        Args:
            start: Seconds on the caller's clock.
            end: The same clock, > start; intervals come in order and do not overlap.
            integral: Concurrent invocations times seconds in that interval, >= 0.
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

    def touch(self, now: float) -> None:
        """Say that the window is not silent, without any data: what came before `now` is not known."""
        self._active = floor(now)

    def _put(self, index: int, integral: float, seconds: float) -> None:
        size = self.seconds
        last = self._last
        if last is None or index - last >= size:
            self._integral = [0.0] * size
            self._covered = [0.0] * size
            self._total = 0.0
            self._first = self._last = index
        elif index > last:
            for expired in range(last + 1, index + 1):
                slot = expired % size
                if self._covered[slot]:
                    self._total -= self._integral[slot] / self._covered[slot]
                    self._integral[slot] = self._covered[slot] = 0.0
            self._last = index
        elif last - index >= size:
            return
        slot = index % size
        if self._covered[slot]:
            self._total -= self._integral[slot] / self._covered[slot]
        self._integral[slot] += integral
        self._covered[slot] += seconds
        self._total += self._integral[slot] / self._covered[slot]

    def average(self, now: float) -> float:
        """Return the average concurrency, rounded to 6 decimals.

        Seconds without data between others count as zero; seconds after the newest data do not count. While
        the window holds any traffic the result is at least SMALLEST: short requests keep their instance.
        """
        last = self._last
        if last is None:
            return 0.0
        size = self.seconds
        gap = floor(now) - last
        if gap >= size:
            return 0.0
        total = self._total
        for expired in range(last + 1, last + gap + 1):
            slot = expired % size
            if self._covered[slot]:
                total -= self._integral[slot] / self._covered[slot]
        count = min(last - self._first + 1, size - max(gap, 0))
        value = round(max(0.0, total) / count, 6)
        return value if value >= SMALLEST or self.silent(now) else SMALLEST

    def silent(self, now: float) -> bool:
        """Return whether nothing ran, waited or began in the whole window."""
        return self._active is None or floor(now) - self._active >= self.seconds
