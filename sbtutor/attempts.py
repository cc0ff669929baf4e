"""How the runs of a sweep went: each attempt, from its start to its end."""

import contextlib
import datetime
import json
from pathlib import Path
from typing import Any, NamedTuple

LOG = "log.txt"  # in a run's folder
ATTEMPTS = "attempts.jsonl"


class Outcome(NamedTuple):
    """How a run ended."""

    name: str
    trouble: str | None = None  # in one line; None if it is finished
    lost: bool = False  # its process or computer died: another try may help


def note(folder: Path, **what: Any) -> None:
    """Add a line to the run's attempts, even after half a line from a full disk."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    path = folder / ATTEMPTS
    cut = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut + json.dumps({"time": now, **what}) + "\n")


def read(folder: Path) -> list[dict[str, Any]]:
    """The starts and ends of a run's attempts, in order; half a line is left out."""
    path, found = folder / ATTEMPTS, []
    if path.exists():
        for line in path.read_text("utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
    return [line for line in found if isinstance(line, dict) and "event" in line]
