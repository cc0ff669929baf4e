"""nbval over the lessons: this interpreter runs them, and only text is compared."""

import os
import tempfile
from pathlib import Path

import nbval.plugin

from sbtutor import lessons

# Figures hold floats to the last bit, and tables markup; asserts in cells check both.
SKIP = (lessons.PLOTLY, "text/html", "image/png", "image/svg+xml")

_kernels = tempfile.TemporaryDirectory()
os.environ.update(lessons.own_kernel(Path(_kernels.name)))
_plain_init = nbval.plugin.IPyNbFile.__init__


def _init(self, *args, **kwargs):
    _plain_init(self, *args, **kwargs)
    self.skip_compare += SKIP


nbval.plugin.IPyNbFile.__init__ = _init
