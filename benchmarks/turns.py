"""Two ways to do one thing, timed in turn: A B A B ..."""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

Run = Callable[[], Any]


class Turns(NamedTuple):
    """Median seconds of both ways, their ratios in rising order, the last values."""

    theirs: float
    ours: float
    ratios: list[float]
    values: tuple[Any, Any]

    def __str__(self) -> str:
        """The median ratio, above 1 where ours is faster, and the range."""
        low, high = self.ratios[0], self.ratios[-1]
        return f"ratio {statistics.median(self.ratios):5.2f} ({low:.2f} to {high:.2f})"


def _seconds(run: Run, per: Callable[[Any], float]) -> tuple[float, Any]:
    start = time.perf_counter()
    value = run()
    return (time.perf_counter() - start) / per(value), value


def in_turns(
    theirs: Run, ours: Run, repeats: int, per: Callable[[Any], float] = lambda _: 1
) -> Turns:
    """Warm both up, then time them in turn; `per` turns a value into units of work."""
    theirs(), ours()
    pairs = [(_seconds(theirs, per), _seconds(ours, per)) for _ in range(repeats)]
    medians = (statistics.median(p[way][0] for p in pairs) for way in (0, 1))
    ratios = sorted(a[0] / b[0] for a, b in pairs)
    return Turns(*medians, ratios, (pairs[-1][0][1], pairs[-1][1][1]))
