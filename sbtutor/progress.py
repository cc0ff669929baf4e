"""Progress of a loop: a bar for people, plain lines for logs."""

import os
import sys
import time
from html import escape

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_BARS = 0.1


def _in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _mode() -> str:
    """bar, plain or off; $SBTUTOR_PROGRESS decides, else where the output goes."""
    asked = os.environ.get("SBTUTOR_PROGRESS", "auto")
    if asked not in ("auto", "bar", "plain", "off"):
        raise ValueError(
            f"unknown SBTUTOR_PROGRESS={asked!r}: write bar, plain, off or auto"
        )
    if asked != "auto":
        return asked
    return "bar" if _in_notebook() or sys.stderr.isatty() else "plain"


class NotebookBar:
    """A bar in a cell's output, which is empty again when it is closed.

    tqdm's own for notebooks is a widget. Once that is closed, the cell says "model not
    found" when the page is loaded again.
    """

    def __init__(self, label: str, total: int, done: int) -> None:
        from IPython.display import display

        self.label, self.total, self.done = label, total, done
        self.shown = time.monotonic()
        first = {"text/html": self._html("")}
        self.output = display(first, raw=True, display_id=True)

    def _html(self, note: str) -> str:
        bar = f'<progress max="{self.total}" value="{self.done}"></progress>'
        text = f"{self.label}: {self.done}/{self.total} {note}"
        return f"<label>{bar} {escape(text)}</label>"

    def step(self, note: str) -> None:
        """One step further."""
        self.done += 1
        if time.monotonic() - self.shown >= SECONDS_BETWEEN_BARS:
            self.shown = time.monotonic()
            self.output.update({"text/html": self._html(note)}, raw=True)

    def close(self) -> None:
        """Empty the output."""
        self.output.update({"text/html": ""}, raw=True)


class TerminalBar(tqdm):
    """tqdm's bar, removed when it is closed."""

    def step(self, note: str) -> None:
        """One step further."""
        self.set_postfix_str(note, refresh=False)
        self.update()


class Progress:
    """Counts steps; a bar, or a line every 10 seconds."""

    def __init__(self, label: str, total: int, done: int = 0) -> None:
        """Start at `done` of `total` steps."""
        self.label, self.total, self.done = label, total, done
        self.mode = _mode()
        self.started = self.printed = time.monotonic()
        self.bar = None
        if self.mode == "bar" and _in_notebook():
            self.bar = NotebookBar(label, total, done)
        elif self.mode == "bar":
            self.bar = TerminalBar(total=total, initial=done, desc=label, leave=False)

    def step(self, note: str) -> None:
        """One step further; `note` says how it went."""
        self.done += 1
        if self.bar is not None:
            self.bar.step(note)
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
