"""The offline book: executed lessons as HTML pages that need no network."""

import json
import re
from functools import partial
from html import escape
from pathlib import Path

from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
    MathInlineParser,
)
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from pygments.formatters import HtmlFormatter

from sbtutor import lessons

# What latex2mathml does not know, in words that it knows.
SYNONYMS = (
    (r"\\operatorname\*", r"\\operatorname"),
    (r"\\arg\s*\\(max|min)", r"\\operatorname{arg\1}"),
    (r"\\arg\b", r"\\operatorname{arg}"),
    (r"\\operatorname\{arg\\,(max|min)\}", r"\\operatorname{arg\1}"),
    (r"\\(begin|end)\{aligned\}", r"\\\1{align*}"),
    (r"\\(begin|end)\{equation\*?\}", r""),
    (r"\\math(?:bb|bbm|ds)\{1\}|\\mathbb\s+1", "𝟙"),
    (r"\\sim\b", "∼"),
)

DRAW = """
for (const data of document.querySelectorAll("script[type='application/json']")) {
  const { layout, ...figure } = JSON.parse(data.textContent);
  delete layout.width;
  layout.height ??= 420;
  const config = { responsive: true, displaylogo: false };
  Plotly.newPlot(data.previousElementSibling, { layout, config, ...figure });
}
"""

STYLE = Path(__file__).with_name("assets") / "book.css"

ABOUT = """<p>The lessons as they ran here. Figures answer to the mouse and need no
network; sliders and exercises come alive in JupyterLab (<code>make lab</code>).</p>"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="book.css">
</head>
<body>
{before}<main>
{body}
</main>
{after}</body>
</html>
"""


def mathml(latex: str, display: str = "inline") -> str:
    """A formula as MathML, which browsers draw without JavaScript.

    Raises ValueError for a command that latex2mathml would print as it stands.
    """
    known = latex.strip()
    for theirs, ours in SYNONYMS:
        known = re.sub(theirs, ours, known)
    try:
        done = convert(known, display=display)
    except Exception as error:  # its many errors share no base class
        raise ValueError(f"cannot typeset ${latex}$: {type(error).__name__}") from error
    done = done.replace("\\%", "%")
    left = re.search(r">[^<]*(\\\w*|&)(?=[<\\])", done)
    if left:
        raise ValueError(f"cannot typeset {left[1]!r} in ${latex}$; write it otherwise")
    return done


class _Inline(MathInlineParser):
    """Math as in Pandoc: `$5 and $6` is money, since a space is no end of a formula."""

    SPECIFICATION = MathInlineParser.SPECIFICATION | {
        "inline_math_tex": r"(?<![$\\])\$(?!\s)"
        r"(?P<math_inline_tex>[^$`]+?)(?<![\s$\\])\$(?!\d)"
    }


class _Renderer(IPythonRenderer):
    """Markdown to HTML with MathML, and links between lessons to their pages."""

    def inline_math(self, body: str) -> str:
        return mathml(body)

    def block_math(self, body: str) -> str:
        return mathml(body, "block")

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", "block")

    def link(self, text: str, url: str, title: str | None = None) -> str:
        url = re.sub(r"^(?:\./)?(\d\d_\w+)\.ipynb", r"\1.html", url)
        return super().link(text, url, title)


def markdown(source: str) -> str:
    """Markdown with formulas to HTML; code is left alone."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    html = MarkdownWithMath(renderer, inline=_Inline(hard_wrap=False)).render(source)
    return _scrolling(html)


def _scrolling(html: str) -> str:
    """Wide tables scroll by themselves, not with the page."""
    html = re.sub(r"(<table\b)", r'<div class="table" tabindex="0">\1', html)
    return html.replace("</table>", "</table></div>")


def figure(spec: dict) -> str:
    """A plotly figure as HTML, to be drawn by `plotly.min.js` in the same folder.

    It is described by the text in `layout.meta.alt`, else by its title.
    """
    layout = spec.get("layout", {})
    meta, title = layout.get("meta"), layout.get("title") or {}
    title = title.get("text", "") if isinstance(title, dict) else title
    said = (isinstance(meta, dict) and meta.get("alt")) or title or "figure"
    said = escape(re.sub(r"<[^>]*>", " ", str(said)), quote=True)
    parts = {key: spec.get(key, []) for key in ("data", "frames")} | {"layout": layout}
    data = json.dumps(parts).replace("</", "<\\/")
    return (
        f'<div class="plot" role="img" aria-label="{said}"></div>'
        f'<script type="application/json">{data}</script>'
    )


def body(nb: NotebookNode) -> str:
    """A notebook's cells as HTML; changes the notebook."""
    noise = {"injected-parameters", "papermill-error-cell-tag"}
    nb.cells = [cell for cell in nb.cells if not noise & set(lessons.tags(cell))]
    for output in lessons.outputs(lessons.without_widgets(nb)):
        data = output.get("data", {})
        if lessons.PLOTLY in data:
            output.data = NotebookNode({"text/html": figure(data[lessons.PLOTLY])})
        elif "text/html" in data:
            output.data["text/html"] = _scrolling(data["text/html"])
    exporter = HTMLExporter(template_name="basic", filters={"markdown2html": markdown})
    return exporter.from_notebook_node(nb)[0]


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
    return f"preset {escape(preset)}, {about.get('duration') or 0:.0f} s"


def _navigation(stems: list[str], at: int) -> str:
    links = ['<a href="index.html">Contents</a>']
    if at > 0:
        name = escape(stems[at - 1])
        links.append(f'<a rel="prev" href="{name}.html">← {name}</a>')
    if at + 1 < len(stems):
        name = escape(stems[at + 1])
        links.append(f'<a rel="next" href="{name}.html">{name} →</a>')
    return "<nav>" + "".join(links) + "</nav>\n"


def _contents(rows: list[tuple[str, NotebookNode, str]]) -> str:
    row = '<tr><td>{}</td><td><a href="{}.html">{}</a></td><td>{}</td><td>{}</td></tr>'
    table = "\n".join(
        row.format(
            escape(stem[:2]),
            escape(stem),
            escape(lessons.question(nb)),
            escape(lessons.minutes(nb)),
            status,
        )
        for stem, nb, status in rows
    )
    heads = ("Lesson", "Question", "Minutes", "This run")
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{table}</tbody></table>"
    return f"<h1>Ensembles of neural networks</h1>{ABOUT}{_scrolling(table)}"


def _style() -> str:
    css = partial(HtmlFormatter, nobackground=True)
    light = css(style="default").get_style_defs(".highlight")
    dark = css(style="github-dark").get_style_defs(".highlight")
    dark = f"@media (prefers-color-scheme: dark) {{ {dark} }}"
    return "\n".join((STYLE.read_text(encoding="utf-8"), light, dark))


def make(out: Path, folder: Path) -> Path:
    """Write the book of all lessons in `folder` to `out`; returns its first page.

    A lesson that was not run into `out` appears with the outputs that it came with.
    """
    stems = [lesson.stem for lesson in lessons.find(folder)]
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for at, stem in enumerate(stems):
        ran = out / f"{stem}.ipynb"
        nb = lessons.read(ran if ran.exists() else folder / ran.name)
        rows.append((stem, nb, _status(nb, ran)))
        around = _navigation(stems, at)
        text = f'<p class="soft">Lesson {stem[:2]}: {rows[-1][2]}</p>\n{body(nb)}'
        if 'class="plot"' in text:
            text += f'<script src="plotly.min.js"></script><script>{DRAW}</script>'
        title = escape(lessons.question(nb))
        page = PAGE.format(title=title, before=around, after=around, body=text)
        (out / f"{stem}.html").write_text(page, encoding="utf-8")
    (out / "plotly.min.js").write_text(get_plotlyjs(), encoding="utf-8")
    (out / "book.css").write_text(_style(), encoding="utf-8")
    index = PAGE.format(title="Contents", before="", after="", body=_contents(rows))
    (out / "index.html").write_text(index, encoding="utf-8")
    return out / "index.html"
