"""What a lesson is: `NN_name.ipynb`, built from `source/NN_name.py`, and its facts.

A page beside the lessons, such as `paper_vs_ours.ipynb`, is treated alike but has no
exercises and no number.
"""

import ast
import json
import os
import re
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from io import BytesIO
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from PIL import Image

from sbtutor import exercises, twins

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
COURSE = ("[0-9][0-9]_*.ipynb", "paper_vs_ours.ipynb")  # the lessons, then the pages
CONTROLS = "[controls: run this cell in JupyterLab to explore]"
PAGE = 'data-sbtutor="page"'  # marks what a page needs only while it runs
SOCKET = 90  # bytes of a connection file's path; of its sockets' a Mac allows 103
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def find(
    folder: Path, names: tuple[str, ...] = (), patterns: tuple[str, ...] = COURSE
) -> list[Path]:
    """The lessons in a folder, in order; `names` (01, 01_deep or whole) picks some.

    Raises ValueError where there are none, or a name fits none.
    """
    found = [path for each in patterns for path in sorted(folder.glob(each))]
    if not found:
        raise ValueError(
            f"no lessons ({', '.join(patterns)}) in {folder}; run this from the "
            "repository's root, or name the folder with --notebooks"
        )
    wanted = []
    for name in names:
        stem = Path(name).stem
        fits = [lesson for lesson in found if lesson.stem.startswith(stem)]
        if not fits:
            stems = [lesson.stem for lesson in found]
            near = get_close_matches(stem, stems, n=1, cutoff=0.3)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"no lesson {name!r}: {hint}there are {', '.join(stems)}")
        wanted += fits
    return sorted(set(wanted)) if names else found


def read(path: Path) -> NotebookNode:
    """A notebook, as nbformat 4."""
    return nbformat.read(path, as_version=4)


def write(nb: NotebookNode, path: Path) -> None:
    """Write a notebook whole or not at all, its lines without leading spaces.

    They would be an eighth of a lesson, as each number of a figure has its line.
    """
    half = path.with_name(path.name + ".tmp")
    lines = json.dumps(json.loads(nbformat.writes(nb)), indent=0, ensure_ascii=False)
    half.write_text(lines + "\n", encoding="utf-8")
    os.replace(half, path)


def tags(cell: NotebookNode) -> list[str]:
    """The tags of a cell."""
    return cell.metadata.get("tags", [])


def code(nb: NotebookNode) -> list[NotebookNode]:
    """The code cells that are not empty."""
    return [c for c in nb.cells if c.cell_type == "code" and c.source.strip()]


def outputs(nb: NotebookNode) -> Iterator[NotebookNode]:
    """All outputs, in order."""
    return (output for cell in code(nb) for output in cell.get("outputs", []))


def html(output: NotebookNode) -> str:
    """An output's HTML, "" without any."""
    return "".join(output.get("data", {}).get("text/html", ""))


def prose(nb: NotebookNode) -> str:
    """All markdown of a lesson, as one text."""
    return "\n\n".join(c.source for c in nb.cells if c.cell_type == "markdown")


def question(nb: NotebookNode) -> str:
    """The lesson's title, which is a question: its first `# ` heading."""
    heading = re.search(r"^# +(.+?) *$", prose(nb), re.M)
    return heading[1] if heading else "(untitled)"


def place(stem: str) -> str:
    """Where a notebook stands in the course, as "Lesson 01"."""
    number = stem[:2]
    return f"Lesson {number}" if number.isdigit() else "Beside the lessons"


def minutes(nb: NotebookNode) -> str:
    """What follows `**Minutes:**`, as in "read 10, do 20, compute 1"; "" if unsaid."""
    line = re.search(r"^\*\*Minutes:\*\* *(.+?) *$", prose(nb), re.M)
    return line[1] if line else ""


def compute_minutes(nb: NotebookNode) -> float:
    """The number after "compute" in the lesson's minutes, else 0."""
    number = re.search(r"compute +([\d.]*\d)", minutes(nb))
    return float(number[1]) if number else 0.0


def parameters(nb: NotebookNode) -> list[str]:
    """The names that the cell tagged `parameters` sets; [] without such a cell."""
    cells = [c for c in code(nb) if "parameters" in tags(c)]
    lines = ast.parse(cells[0].source).body if cells else []
    return [
        target.id
        for line in lines
        for target in getattr(line, "targets", [getattr(line, "target", None)])
        if isinstance(target, ast.Name)
    ]


def problem(nb: NotebookNode) -> str | None:
    """Why an executed lesson is not to be trusted, in one line; None if it is fine.

    A kernel that dies leaves no error and papermill calls its cells completed, so each
    code cell must have been counted, and `run` notes what it alone saw as `failed`.
    """
    for number, cell in enumerate(code(nb), start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                return f"code cell {number}: {output.ename}: {output.evalue}".strip()
        if cell.execution_count is None:
            return f"stopped in or before code cell {number}; did the kernel die?"
    return nb.metadata.get("failed")


def without_widgets(nb: NotebookNode) -> NotebookNode:
    """The notebook, in place, with controls replaced by a line on how to get them.

    A saved widget is dead: it shows "model not found", and its state is 5 MB a figure.
    """
    nb.metadata.pop("widgets", None)
    for output in outputs(nb):
        if WIDGET in output.get("data", {}):
            twin = {k: v for k, v in output.data.items() if k == twins.MIME}
            output.data = NotebookNode({"text/plain": CONTROLS} | twin)
    return nb


def take_twins(nb: NotebookNode) -> dict[str, list[NotebookNode]]:
    """Take the twins of explorers out of a notebook; returns each cell's, by its id."""
    taken = {
        cell.id: [
            output.data.pop(twins.MIME)
            for output in cell.get("outputs", [])
            if twins.MIME in output.get("data", {})
        ]
        for cell in code(nb)
    }
    return {name: found for name, found in taken.items() if found}


def tidy(nb: NotebookNode) -> NotebookNode:
    """An executed notebook, in place, with only what readers and reviewers need."""
    nb.cells = [c for c in nb.cells if "injected-parameters" not in tags(c)]
    nb.metadata = NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    for cell in nb.cells:
        kept = {"tags": tags(cell)} if tags(cell) else {}
        cell.metadata = NotebookNode(kept)
    for number, cell in enumerate(code(nb), start=1):
        cell.execution_count = number
        cell.outputs = [o for o in cell.outputs if PAGE not in html(o)]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    return without_widgets(nb)


def from_source(source: Path, version: str = "student") -> NotebookNode:
    """The unexecuted notebook of `source/NN_name.py` (jupytext's percent format).

    Cell ids are made of their cells' first lines, so that a rebuild keeps them and an
    inserted cell leaves the others' alone. `exercises.of_version` tells the versions
    apart: student, solution and teacher.
    """
    import jupytext

    nb = exercises.of_version(jupytext.read(source, fmt="py:percent"), version)
    number, seen = source.stem[:2], Counter()
    for cell in nb.cells:
        first = cell.source.strip().partition("\n")[0].lower()
        slug = re.sub(r"[^a-z0-9]+", "-", first).strip("-")[:40] or cell.cell_type
        seen[slug] += 1
        cell.id = f"{number}-{slug}" + (f"-{seen[slug]}" if seen[slug] > 1 else "")
    nb.nbformat, nb.nbformat_minor = 4, 5
    return tidy(nb)


def add_pictures(nb: NotebookNode) -> bool:
    """Give each plotly output a still PNG, for readers on GitHub.

    Returns False, and changes nothing, where there is no Chromium to draw with.
    """
    import kaleido

    figures = [output for output in outputs(nb) if PLOTLY in output.get("data", {})]
    pictures = []
    try:
        kaleido.start_sync_server(silence_warnings=True)
        for output in figures:
            figure = json.loads(json.dumps(output.data[PLOTLY]))
            height = figure.get("layout", {}).get("height") or 400
            size = {"format": "png", "width": 600, "height": height, "scale": 1}
            pictures.append(kaleido.calc_fig_sync(figure, opts=size))
    except Exception as error:  # kaleido and its browser layer raise many kinds
        print(f"no still pictures ({type(error).__name__}): is Chromium installed?")
        return False
    finally:
        kaleido.stop_sync_server(silence_warnings=True)
    for output, picture in zip(figures, pictures):
        output.data["image/png"] = b64encode(_smaller(picture)).decode()
    return True


def _smaller(picture: bytes) -> bytes:
    """A PNG with a palette of 32 colours: a quarter of the size."""
    smaller = BytesIO()
    with Image.open(BytesIO(picture)) as image:
        image.convert("RGB").quantize(32).save(smaller, "png", optimize=True)
    return smaller.getvalue()


def own_kernel(folder: Path) -> dict[str, str]:
    """Environment in which kernel `python3` is this very interpreter.

    The spec written to `folder` goes before any kernel spec that a user may have
    installed under that name, and keeps each start's notice on encryption out of logs.
    """
    spec = folder / "kernels" / "python3"
    spec.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    argv += ["--log-level=ERROR"]
    (spec / "kernel.json").write_text(json.dumps({**KERNEL, "argv": argv}))
    others = os.environ.get("JUPYTER_PATH")
    path = os.pathsep.join([str(folder), *([others] if others else [])])
    return {"JUPYTER_PATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"}


def sockets(folder: Path, name: str = "kernel") -> dict[str, str]:
    """Traits of a KernelManager that talks to its kernel through files in a folder.

    By default it picks five free ports for the kernel, and another program may have
    taken one before the kernel does. Empty on Windows, and where the path is too long
    for a socket: then ports it is.
    """
    path = folder.resolve() / f"{name}.json"
    if sys.platform == "win32" or len(os.fsencode(path)) > SOCKET:
        return {}
    return {"transport": "ipc", "connection_file": str(path)}
