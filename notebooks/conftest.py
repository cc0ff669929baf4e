"""nbval over the lessons: this interpreter runs them, and only text is compared."""

import itertools
import os
import signal
import tempfile
from pathlib import Path

import nbval.kernel
import nbval.plugin

from sbtutor import lessons

# Figures hold floats to the last bit, and tables markup; asserts in cells check both.
SKIP = (lessons.PLOTLY, "text/html", "image/png", "image/svg+xml")

# `make test` ends this with SIGTERM.
for name in ("SIGTERM", "SIGHUP"):
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), signal.default_int_handler)
_kernels = tempfile.TemporaryDirectory()
os.environ.update(lessons.own_kernel(Path(_kernels.name)))
os.environ["SBTUTOR_JOURNAL"] = str(Path(_kernels.name) / "progress.json")
_plain_init = nbval.plugin.IPyNbFile.__init__
_plain_cell = nbval.plugin.IPyNbCell.__init__
_plain_manager = nbval.kernel.KernelManager
_numbers = itertools.count()


def _init(self, *args, **kwargs):
    _plain_init(self, *args, **kwargs)
    self.skip_compare += SKIP


def _cell(self, *args, **kwargs):
    _plain_cell(self, *args, **kwargs)
    self.output_timeout = 60  # seconds; 5 are few where other tests run beside


def _manager(**how):
    kernel = lessons.sockets(Path(_kernels.name), f"kernel-{next(_numbers)}")
    return _plain_manager(**how, **kernel)


nbval.plugin.IPyNbFile.__init__ = _init
nbval.plugin.IPyNbCell.__init__ = _cell
nbval.kernel.KernelManager = _manager

SMOKE_BUDGET = 40  # seconds a lesson; at preset class it is the lesson's own `compute`


def pytest_terminal_summary(terminalreporter) -> None:
    """How long each lesson took, beside its budget: a report, it fails nothing."""
    took: dict[str, list[float]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if hasattr(report, "duration") and hasattr(report, "nodeid"):
                path = report.nodeid.partition("::")[0]
                took.setdefault(path, []).append(report.duration)
    if not took:
        return
    terminalreporter.section("seconds a lesson, with its slowest cell, and its budget")
    for path, parts in sorted(took.items()):
        seconds, budget = sum(parts), _budget(terminalreporter.config.rootpath / path)
        line = f"{path:40} {seconds:6.1f} ({max(parts):.1f}), budget {budget:.0f}"
        late = "  OVER BUDGET" if seconds > budget else ""
        terminalreporter.write_line(line + late)


def _budget(lesson: Path) -> float:
    if os.environ.get("SBTUTOR_PRESET", "class") == "smoke" or not lesson.exists():
        return SMOKE_BUDGET
    return 60 * lessons.compute_minutes(lessons.read(lesson))
