"""Progress of a loop: a bar for people, plain lines for logs."""

import os
import sys
import time

from tqdm.auto import tqdm

SECONDS_BETWEEN_LINES = 10.0


def _mode() -> str:
    """bar, plain or off; $SBTUTOR_PROGRESS decides, else where the output goes."""
    asked = os.environ.get("SBTUTOR_PROGRESS", "auto")
    if asked not in ("auto", "bar", "plain", "off"):
        raise ValueError(
            f"unknown SBTUTOR_PROGRESS={asked!r}: write bar, plain, off or auto"
        )
    if asked != "auto":
        return asked
    in_notebook = "ipykernel" in sys.modules
    return "bar" if in_notebook or sys.stderr.isatty() else "plain"


class Progress:
    """Counts steps; a tqdm bar (a widget in JupyterLab) or a line every 10 seconds."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        """Start at `done` of `total` steps."""
        self.label, self.total, self.done = label, total, done
        self.mode = _mode()
        self.started = self.printed = time.monotonic()
        self.bar = None
        if self.mode == "bar":
            self.bar = tqdm(total=total, initial=done, desc=label, leave=False)

    def step(self, note: str) -> None:
        """One step further; `note` says how it went."""
        self.done += 1
        if self.bar is not None:
            self.bar.set_postfix_str(note, refresh=False)
            self.bar.update()
        now = time.monotonic()
        due = now - self.printed >= SECONDS_BETWEEN_LINES or self.done == self.total
        if self.mode == "plain" and due:
            self.printed = now
            seconds = now - self.started
            line = f"{self.label}: {self.done}/{self.total}, {note}, {seconds:.0f} s"
            print(line, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()
