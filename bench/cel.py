"""Rules in CEL: one evaluation and one compilation, against Google's implementation in C++.

The rule is like those of definitions: three terms over an object of ten values, one of them a macro over a
list. Both get the object as Python has it after JSON was decoded; what the peer converts on the way in is
part of its time. Turns alternate in one process.
Run: python -m bench.cel [--seconds 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

from bench.table import Row, render, spread

RULE = "self.items.all(i, i.v > 0) && has(self.a) && self.s.startsWith('H')"
DATA: dict[str, Any] = {
    "self": {
        "a": 1,
        "b": [3, 1, 2],
        "s": "Hello",
        "f": 1.5,
        "items": [{"name": "a", "v": 1}, {"name": "b", "v": 2}],
    }
}
ROUNDS = 7


def _per_call_us(call: Callable[[], object], seconds: float) -> float:
    calls, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < seconds:
        for _ in range(20):
            call()
        calls += 20
    return passed / calls * 1e6


def rows(seconds: float = 0.5) -> list[Row]:
    """Measure; seconds per turn."""
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_optional, ext_strings

    from pelton.cel import DYN, compile_cel

    environment = cel.NewEnv(
        variables={"self": cel.Type.DYN}, extensions=[ext_strings.ExtStrings(), ext_optional.ExtOptional()]
    )
    program, peer = compile_cel(RULE, {"self": DYN}), environment.compile(RULE)
    pairs = {
        "CEL: evaluate a rule": (lambda: program.evaluate(DATA), lambda: peer.eval(data=DATA)),
        "CEL: compile a rule": (lambda: compile_cel(RULE, {"self": DYN}), lambda: environment.compile(RULE)),
    }
    found = []
    for name, (ours, theirs) in pairs.items():
        turns = [(_per_call_us(ours, seconds), _per_call_us(theirs, seconds)) for _ in range(ROUNDS)]
        found.append(
            Row(
                name,
                statistics.median(own for own, _ in turns),
                statistics.median(other for _, other in turns),
                "us",
                spread=spread([own for own, _ in turns], [other for _, other in turns]),
            )
        )
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.5)
    print(render(rows(parser.parse_args().seconds)))


if __name__ == "__main__":
    main()
