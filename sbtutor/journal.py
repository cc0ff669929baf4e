"""A learner's progress: exercises and guesses, in one JSON file on this computer.

The file is `progress.json` in the folder of the lessons; $SBTUTOR_JOURNAL names another
one, or is "off". Nothing is sent anywhere. `collect` reads a folder of such files.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from sbtutor import files

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

NAME = "progress.json"
PARTS = ("exercises", "guesses")
REMEDY = "move it away to start anew"


def path() -> Path | None:
    """Where progress is kept; None if it is off."""
    asked = os.environ.get("SBTUTOR_JOURNAL", NAME)
    return None if asked == "off" else Path(asked)


def load(path: Path) -> dict[str, dict[str, dict]]:
    """A file's `exercises` by name, and its `guesses` by "lesson: question".

    Raises:
        BrokenFileError: the file holds something else.
    """
    if not path.exists():
        return {part: {} for part in PARTS}
    kept = files.read_json(path, REMEDY)
    parts = [kept.get(part) for part in PARTS] if isinstance(kept, dict) else [None]
    if not all(
        isinstance(part, dict)
        and all(isinstance(entry, dict) for entry in part.values())
        for part in parts
    ):
        raise files.BrokenFileError(f"{path} holds no progress of the course; {REMEDY}")
    return kept


@contextlib.contextmanager
def _in_turn(folder: Path) -> Iterator[None]:
    """One notebook after the other, or each would undo what the other has just kept.

    The folder is locked, as the file is replaced. Windows has no such locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network disks have none, either
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # which ends the lock


def _change(part: str, name: str, change: Callable[[dict], None]) -> dict[str, Any]:
    """One entry, changed and kept; trouble with the file is told and stops nothing."""
    at, entry = path(), {}
    try:
        with _in_turn(at.parent) if at else contextlib.nullcontext():
            kept = load(at) if at else {part: {}}
            entry = kept[part].setdefault(name, entry)
            change(entry)
            if at:
                files.write_json(at, kept)
    except (OSError, ValueError) as error:
        print(f"(your progress is not kept: {error})")
        change(entry)
    return entry


def _today() -> str:
    return datetime.datetime.now().astimezone().date().isoformat()


def tried(lesson: str, exercise: str, said: str | None) -> None:
    """Keep one try at an exercise; `said` is what was wrong, None if it was right."""

    def change(entry: dict) -> None:
        entry["lesson"] = lesson
        entry["tries"] = entry.get("tries", 0) + ("passed" not in entry)
        if said is None:
            entry.setdefault("passed", _today())
            entry.pop("said", None)
        elif "passed" not in entry:
            entry["said"] = said

    _change("exercises", exercise, change)


def guess(lesson: str, question: str, value: Any) -> None:
    """Keep what the learner expects; once the answer is known, it stays as it is."""

    def change(entry: dict) -> None:
        if "measured" not in entry:
            entry["guess"] = _plain(value)

    _change("guesses", f"{lesson}: {question}", change)


def compare(lesson: str, question: str, measured: Any) -> Any:
    """Keep what was measured; returns what the learner had guessed before, or None."""

    def change(entry: dict) -> None:
        entry["measured"] = _plain(measured)

    return _change("guesses", f"{lesson}: {question}", change).get("guess")


def _plain(value: Any) -> Any:
    """As JSON holds it: sets as sorted lists, tuples as lists, the rest as text."""
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value), key=str)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return "" if value is Ellipsis else str(value)


def collect(folder: Path | str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All progress files (*.json) of a folder; a file's name is the learner's.

    Returns:
        One row a learner and exercise (`learner`, `exercise`, `lesson`, `tries`,
        `passed`: the date or NaN, `said`: the last message), and one a learner and
        question (`learner`, `lesson`, `question`, `guess`, `measured`).

    Raises:
        ValueError: no such files, or a broken one; names it.
    """
    found = sorted(Path(folder).glob("*.json"))
    if not found:
        raise ValueError(
            f"no progress in {folder}: put each learner's {NAME} there, named after "
            "the learner, such as ada.json"
        )
    exercises, guesses = [], []
    for file in found:
        kept = load(file)
        for name, entry in kept["exercises"].items():
            exercises.append(entry | {"learner": file.stem, "exercise": name})
        for name, entry in kept["guesses"].items():
            lesson, _, question = name.partition(": ")
            about = {"learner": file.stem, "lesson": lesson, "question": question}
            guesses.append(entry | about)
    columns = ["learner", "exercise", "lesson", "tries", "passed", "said"]
    asked = ["learner", "lesson", "question", "guess", "measured"]
    return pd.DataFrame(exercises, columns=columns), pd.DataFrame(
        guesses, columns=asked
    )
