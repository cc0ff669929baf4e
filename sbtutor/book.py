"""The offline book: executed lessons as HTML pages that need no network."""

import re
from functools import partial
from html import escape
from pathlib import Path

from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from sbtutor import exercises, lessons, theme, twins, typeset

ASSETS = Path(__file__).with_name("assets")
DARK = "@media (prefers-color-scheme: dark)"
CODE = {"light": "default", "dark": "github-dark"}  # pygments' names
DARK_PAGE = "#14171b"  # as in book.css

ABOUT = """<p>The lessons as they ran here. Figures answer to the mouse, and controls
above some of them to mouse and keys; nothing needs a network. Exercises and finer
controls come alive in JupyterLab (<code>make lab</code>).</p>"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="book.css">
{scripts}</head>
<body>
<a class="skip" href="#main">Skip to the text</a>
<header>{before}</header>
{contents}<main id="main" tabindex="-1">
{body}
</main>
<footer>{after}</footer>
</body>
</html>
"""
PLOTLY = '<script defer src="plotly.min.js"></script>\n'
SCRIPT = '<script defer src="book.js"></script>\n'

ENTRY = """<li><h2><a href="{stem}.html">{question}</a></h2>
<div class="can">{can}</div>
<p class="soft">{facts}</p>
{tasks}</li>"""


def body(nb: NotebookNode, kept: dict[str, list] | None = None) -> str:
    """A notebook's cells as HTML.

    `kept` has the twins of cells that come without them, as `twins.load` gives them.
    """
    noise = {"injected-parameters", "papermill-error-cell-tag"}
    parts = []
    for cell in nb.cells:
        tags, waiting = lessons.tags(cell), list((kept or {}).get(cell.get("id"), ()))
        if noise & set(tags):
            continue
        if cell.cell_type == "markdown":
            parts.append(typeset.markdown(cell.source))
        elif cell.cell_type == "code" and cell.source.strip():
            shown = [_output(out, waiting) for out in _told_once(cell.outputs)]
            kind = "cell exercise-cell" if "exercise" in tags else "cell"
            whole = "".join([typeset.code(cell.source), *shown])
            parts.append(f'<div class="{kind}">{whole}</div>')
    return "\n".join(parts)


def _told_once(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Without what is meant for JupyterLab, or comes with each figure here anyway."""
    kept: list[NotebookNode] = []
    for output in outputs:
        html = lessons.html(output)
        after_figure = kept and lessons.PLOTLY in kept[-1].get("data", {})
        words = after_figure and "sbtutor-words" in html
        if not words and lessons.PAGE not in html:
            kept.append(output)
    return kept


def _output(output: NotebookNode, waiting: list) -> str:
    """An output as HTML, with the next twin that waits if it lacks its own."""
    if output.output_type == "stream":
        return typeset.printed(output.text)
    if output.output_type == "error":
        return typeset.printed("\n".join(output.traceback), "output bad")
    data = dict(output.data)
    text = data.get("text/plain", "")
    if lessons.WIDGET in data or text == lessons.CONTROLS:
        found = data.get(twins.MIME) or (waiting.pop(0) if waiting else None)
        return typeset.twin(found) if found else typeset.printed(lessons.CONTROLS)
    if lessons.PLOTLY in data:
        return typeset.figure(data[lessons.PLOTLY])
    if "text/html" in data:
        return typeset.scrolling(data["text/html"])
    return typeset.printed(text)


def _status(nb: NotebookNode, ran: Path) -> str:
    """How a lesson's run went that should have left the notebook `ran`, as HTML."""
    trouble = lessons.problem(nb)
    if not ran.exists() and ran.with_suffix(".log").exists():
        trouble = "did not start"
    elif not ran.exists():
        return '<span class="soft">as it came, not run here</span>'
    if trouble:
        return f'<span class="bad">failed: {escape(trouble)}</span>'
    about = nb.metadata.get("papermill", {})
    preset = about.get("parameters", {}).get("preset", "")
    return f"run at preset {escape(preset)}, {about.get('duration') or 0:.0f} s"


def _navigation(stems: list[str], at: int, label: str) -> str:
    links = ['<a href="index.html">Contents</a>']
    for rel, place, shape in (("prev", at - 1, "← {}"), ("next", at + 1, "{} →")):
        if 0 <= place < len(stems):
            name = shape.format(escape(stems[place].replace("_", " ")))
            links.append(
                f'<a rel="{rel}" href="{escape(stems[place])}.html">{name}</a>'
            )
    return f'<nav aria-label="{label}">{"".join(links)}</nav>'


def _on_this_page(headings: list[tuple[str, str]]) -> str:
    if not headings:
        return ""
    links = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in headings)
    return (
        f'<nav class="toc" aria-label="On this page"><p>On this page</p>'
        f"<ol>{links}</ol></nav>\n"
    )


def objectives(nb: NotebookNode) -> str:
    """What one can do after the lesson: the list below Objectives, as one sentence."""
    items = r"^## Objectives\n(?:.*\n)*?((?:- .*\n?(?: .*\n?)*)+)"
    found = re.search(items, lessons.prose(nb), re.M)
    if not found:
        return ""
    points = re.split(r"^- ", found[1], flags=re.M)[1:]
    told = "; ".join(" ".join(point.split()).rstrip(";.") for point in points)
    return f"After it you can {told}."


def _entry(stem: str, nb: NotebookNode, status: str) -> str:
    """A lesson in the contents: what it asks, teaches and takes."""
    told = list(exercises.HEADING.finditer(lessons.prose(nb)))
    minutes = sum(int(task["minutes"]) for task in told)
    tasks = "".join(
        f'<li><a href="{escape(stem)}.html#exercise-{task["number"]}">'
        f"{escape(task['title'])}</a> ({task['level']}, {task['minutes']} minutes)</li>"
        for task in told
    )
    count = f"{len(told)} exercise{'s' if len(told) != 1 else ''}, {minutes} minutes"
    folded = f"<details><summary>{count}</summary><ol>{tasks}</ol></details>"
    facts = [lessons.place(stem)]
    if lessons.minutes(nb):
        facts.append(f"minutes: {escape(lessons.minutes(nb))}")
    return ENTRY.format(
        stem=escape(stem),
        question=escape(lessons.question(nb)),
        can=typeset.markdown(objectives(nb)),
        facts="; ".join([*facts, status]),
        tasks=folded if told else "",
    )


def _style() -> str:
    css = partial(HtmlFormatter, nobackground=True)
    light, dark = (css(style=CODE[s]).get_style_defs(".highlight") for s in CODE)
    mine = (ASSETS / "book.css").read_text(encoding="utf-8")
    figures = theme.stylesheet(DARK, DARK_PAGE)
    return "\n".join((mine, light, f"{DARK} {{ {dark} }}", figures))


def make(out: Path, folder: Path) -> Path:
    """Write the book of all lessons in `folder` to `out`; returns its first page.

    A lesson that was not run into `out` appears with the outputs that it came with.
    """
    stems = [lesson.stem for lesson in lessons.find(folder)]
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for at, stem in enumerate(stems):
        came, ran = folder / f"{stem}.ipynb", out / f"{stem}.ipynb"
        nb = lessons.read(ran if ran.exists() else came)
        status = _status(nb, ran)
        entries.append(_entry(stem, nb, status))
        text = body(nb, twins.load(came))
        text, headings = typeset.outline(text)
        page = PAGE.format(
            title=escape(lessons.question(nb)),
            scripts=(PLOTLY if 'class="plot"' in text else "") + SCRIPT,
            before=_navigation(stems, at, "Lessons"),
            contents=_on_this_page(headings),
            body=f'<p class="soft">{lessons.place(stem)}: {status}</p>\n{text}',
            after=_navigation(stems, at, "Where to go next"),
        )
        (out / f"{stem}.html").write_text(page, encoding="utf-8")
    (out / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (out / "book.js").write_bytes((ASSETS / "book.js").read_bytes())
    (out / "book.css").write_text(_style(), encoding="utf-8")
    listed = f'<ol class="lessons">{"".join(entries)}</ol>'
    index = PAGE.format(
        title="Ensembles of neural networks",
        scripts=SCRIPT,
        before="",
        contents="",
        body=f"<h1>Ensembles of neural networks</h1>\n{ABOUT}\n{listed}",
        after="",
    )
    (out / "index.html").write_text(index, encoding="utf-8")
    return out / "index.html"
