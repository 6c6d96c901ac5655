"""A picture of instances and load over time: characters for a terminal, or a PNG file.

`cli/simulate.py` adds points; the number of columns is fixed from the start, so a trace of any length takes
the same memory: when it outgrows them, two columns become one. The PNG is written here, by its specification
(8-bit palette, no filter, zlib): a plotting library would weigh more than the rest of Pelton.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Final

__all__ = ["Chart"]

COLUMNS: Final = 1024
_TERMINAL: Final = (72, 16)
_SIZE: Final = (960, 480)
_MARGIN: Final = (70, 20, 20, 40)  # left, top, right, bottom
_PALETTE: Final = (
    (255, 255, 255),
    (225, 225, 230),
    (40, 40, 48),
    (30, 100, 200),
    (230, 140, 40),
)
_PAPER, _GRID, _INK, _INSTANCES, _LOAD = range(5)
# Five rows of three pixels each, one octal digit per row.
_GLYPHS: Final = {
    "0": "75557",
    "1": "26227",
    "2": "71747",
    "3": "71717",
    "4": "55711",
    "5": "74717",
    "6": "74757",
    "7": "71122",
    "8": "75757",
    "9": "75717",
    ".": "00002",
    "-": "00700",
    "e": "07747",
    "s": "03436",
    " ": "00000",
    "k": "45655",
    "M": "57755",
    "i": "20222",
    "n": "06555",
    "t": "27223",
    "a": "03535",
    "c": "03443",
    "l": "22221",
    "o": "02552",
    "d": "11357",
}


class Chart:
    """Instances as an area and the load as a line, each with an axis of its own."""

    def __init__(self) -> None:
        self._step_s = 0.0  # seconds per column; known with the second point in time
        self._start = 0.0
        self._last = 0.0
        self._instances: list[float | None] = []
        self._load: list[float | None] = []
        self._empty = True

    def add(self, t: float, instances: int, load: float) -> None:
        """Add a point; times do not go back. Each column keeps the largest of its points."""
        if self._empty:
            self._empty, self._start = False, t
        if self._step_s == 0.0 and t > self._start:
            self._step_s = (t - self._start) / 8  # far too fine: it doubles as the trace goes on
        column = int((t - self._start) / self._step_s) if self._step_s else 0
        while column >= COLUMNS:
            factor = 2
            while column // factor >= COLUMNS:
                factor *= 2
            self._instances, self._load = _merged(self._instances, factor), _merged(self._load, factor)
            self._step_s *= factor
            column = int((t - self._start) / self._step_s)
        for series, value in ((self._instances, float(instances)), (self._load, load)):
            series.extend([None] * (column + 1 - len(series)))
            before = series[column]
            series[column] = value if before is None else max(before, value)
        self._last = t

    def terminal(self) -> str:
        """Return the picture as lines of text."""
        width, height = _TERMINAL
        instances, load = _spread(self._instances, width), _spread(self._load, width)
        most, peak = max(instances, default=0.0), max(load, default=0.0)
        lines = []
        for row in range(height, 0, -1):
            low = most * (row - 1) / height
            cells = []
            for column in range(len(instances)):
                eighths = (instances[column] - low) / (most / height) * 8 if most else 0.0
                mark = " ▁▂▃▄▅▆▇█"[max(0, min(8, round(eighths)))]
                at_load = peak and round(load[column] / peak * (height - 1)) == row - 1
                cells.append("•" if at_load else mark)
            label = f"{most:g}" if row == height else ("0" if row == 1 else "")
            lines.append(f"{label:>8} ┤{''.join(cells)}")
        end = f"{self._last:g} s"
        lines.append(" " * 9 + "└" + "─" * len(instances))
        lines.append(" " * 10 + f"{self._start:g} s".ljust(max(0, len(instances) - len(end))) + end)
        lines.append(f"{'':10}█ instances, {most:g} at most   • load, {peak:g} at most")
        return "\n".join(lines)

    def write_png(self, path: Path) -> None:
        """Write the picture as a PNG file."""
        canvas = _Canvas(*_SIZE)
        left, top, right, bottom = _MARGIN
        width, height = _SIZE[0] - left - right, _SIZE[1] - top - bottom
        instances, load = _spread(self._instances, width), _spread(self._load, width)
        most, peak = max(instances, default=0.0), max(load, default=0.0)
        for quarter in range(5):
            y = top + height - height * quarter // 4
            canvas.box(left, y, width, 1, _GRID)
            canvas.text(6, y - 5, f"{most * quarter / 4:.4g}", _INSTANCES)
            seconds = self._start + (self._last - self._start) * quarter / 4
            canvas.text(left + width * quarter // 4 - 20, top + height + 8, f"{seconds:.6g}s", _INK)
        before: int | None = None
        for x in range(len(instances)):
            tall = round(instances[x] / most * height) if most else 0
            canvas.box(left + x, top + height - tall, 1, tall, _INSTANCES)
        for x in range(len(load)):
            y = top + height - (round(load[x] / peak * height) if peak else 0)
            start, end = (y, y) if before is None else (min(y, before), max(y, before))
            canvas.box(left + x, start, 1, end - start + 2, _LOAD)
            before = y
        canvas.box(left, top, 1, height, _INK)
        canvas.box(left, top + height, width, 1, _INK)
        canvas.text(left, top + height + 24, "instances", _INSTANCES)
        canvas.text(left + 120, top + height + 24, f"load 0 - {peak:.4g}", _LOAD)
        path.write_bytes(canvas.png())


def _merged(series: list[float | None], factor: int) -> list[float | None]:
    return [
        max((v for v in series[at : at + factor] if v is not None), default=None)
        for at in range(0, len(series), factor)
    ]


def _spread(series: list[float | None], width: int) -> list[float]:
    """Return one value per column of a picture; a column without a point keeps the one before it."""
    filled: list[float] = []
    for value in series:
        filled.append(value if value is not None else (filled[-1] if filled else 0.0))
    if not filled:
        return []
    count = len(filled)
    spread = []
    for column in range(width):
        start = column * count // width
        end = max(start + 1, (column + 1) * count // width)
        spread.append(max(filled[start:end]))
    return spread


class _Canvas:
    """Pixels by palette index."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._rows = [bytearray(width) for _ in range(height)]

    def box(self, x: int, y: int, width: int, height: int, colour: int) -> None:
        first, last = max(0, x), min(self._width, x + width)
        for row in self._rows[max(0, y) : max(0, y + height)]:
            row[first:last] = bytes([colour]) * max(0, last - first)

    def text(self, x: int, y: int, text: str, colour: int) -> None:
        """Write with glyphs of 3 by 5, doubled; a character without a glyph is left blank."""
        for character in text:
            for row, digit in enumerate(_GLYPHS.get(character, _GLYPHS[" "])):
                for column in range(3):
                    if int(digit, 8) & 4 >> column:
                        self.box(x + 2 * column, y + 2 * row, 2, 2, colour)
            x += 8

    def png(self) -> bytes:
        header = struct.pack(">IIBBBBB", self._width, self._height, 8, 3, 0, 0, 0)
        pixels = b"".join(b"\0" + bytes(row) for row in self._rows)
        palette = b"".join(bytes(colour) for colour in _PALETTE)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            _chunk(kind, data)
            for kind, data in (
                (b"IHDR", header),
                (b"PLTE", palette),
                (b"IDAT", zlib.compress(pixels)),
                (b"IEND", b""),
            )
        )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
