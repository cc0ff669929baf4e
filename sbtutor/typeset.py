"""Parts of a page as HTML: markdown, formulas, code, figures and twins."""

import json
import re
from collections.abc import Mapping
from html import escape
from typing import Any

from latex2mathml.converter import convert
from nbconvert.filters import strip_ansi
from nbconvert.filters.markdown_mistune import (
    IPythonRenderer,
    MarkdownWithMath,
    MathInlineParser,
)
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from sbtutor import describe, twins

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

EXERCISE = re.compile(
    r"<p><strong>(\d+)\. (.+?)</strong>\s\((easy|medium|hard), (\d+) minutes\)\.?\s*",
    re.S,
)
HEADING = (
    r'<h3 class="exercise" id="exercise-\1">Exercise \1. \2 '
    r'<span class="level">\3, \4 minutes</span></h3>'
    "\n<p>"
)

ABOUT_TWIN = (
    "These controls work without Python; the lesson in JupyterLab has finer ones."
)
FIGURE = """<div class="figure">{controls}
<div class="plot" role="img" aria-label="{said}"></div>
<div class="words">{words}</div>
<script type="application/json">{data}</script>
</div>"""


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
    return f'<span class="formula">{done}</span>' if display == "block" else done


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
        url = re.sub(r"^(?:\./)?(\d\d_\w+|paper_vs_ours)\.ipynb", r"\1.html", url)
        return super().link(text, url, title)


def markdown(source: str) -> str:
    """Markdown with formulas to HTML; code is left alone, exercises get headings."""
    renderer = _Renderer(escape=False, exclude_anchor_links=True)
    html = MarkdownWithMath(renderer, inline=_Inline(hard_wrap=False)).render(source)
    return EXERCISE.sub(HEADING, scrolling(html))


def scrolling(html: str) -> str:
    """Wide tables scroll by themselves, not with the page; empty heads are no heads."""
    html = re.sub(r"<th\b([^>]*)>\s*</th>", r"<td\1></td>", html)
    html = re.sub(r"(<table\b)", r'<div class="table">\1', html)
    return html.replace("</table>", "</table></div>")


def code(source: str) -> str:
    """Python, in colours."""
    return highlight(source, PythonLexer(), HtmlFormatter())


def printed(text: str, kind: str = "output") -> str:
    """What a cell printed, or the text of an error."""
    return f'<pre class="{kind}">{escape(strip_ansi(text), quote=False)}</pre>\n'


def outline(html: str) -> tuple[str, list[tuple[str, str]]]:
    """A page's body with a name for each `<h2>`, and these (name, heading) in order."""
    found: list[tuple[str, str]] = []

    def named(heading: re.Match) -> str:
        text = re.sub(r"<[^>]*>", "", heading[1])
        slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        name = f"{len(found) + 1}-{slug}".strip("-")
        found.append((name, heading[1]))
        return f'<h2 id="{name}">{heading[1]}</h2>'

    return re.sub(r"<h2>(.*?)</h2>", named, html, flags=re.S), found


def figure(spec: Mapping[str, Any]) -> str:
    """A plotly figure with its description, to be drawn by `book.js`."""
    layout = spec.get("layout", {})
    data = {key: spec.get(key, []) for key in ("data", "frames")} | {"layout": layout}
    return _figure(data, spec)


def twin(packed: Mapping[str, Any]) -> str:
    """An explorer's twin: controls, the current figure, and the others as data."""
    whole = twins.unpack(packed)
    current = whole["figures"][twins.current(whole)]
    words = [scrolling(describe.details(spec)) for spec in whole["figures"]]
    controls = "".join(
        _control(control, place)
        for place, control in enumerate(whole["controls"])
        if len(control["values"]) > 1
    )
    # Without JavaScript they would move nothing, so it is JavaScript that shows them.
    controls = f"<fieldset hidden><legend>{ABOUT_TWIN}</legend>{controls}</fieldset>"
    live = '<p class="unseen" aria-live="polite"></p>'
    data = twins.pack(whole | {"words": words}, "words")
    return _figure(data, current, controls + live)


def _figure(data: Mapping, shown: Mapping, controls: str = "") -> str:
    text = json.dumps(data, separators=(",", ":"))
    # HTML ends a script at these characters, or hides its end after them.
    text = text.replace("</", "<\\/").replace("<!--", "<\\u0021--")
    said = escape(describe.alt(shown), quote=True)
    words = scrolling(describe.details(shown))
    return FIGURE.format(controls=controls, said=said, words=words, data=text)


def _control(control: Mapping[str, Any], place: int) -> str:
    label, values, at = escape(control["label"]), control["values"], control["at"]
    shown = [escape(value, quote=True) for value in values]
    if control["number"]:
        field = (
            f'<input type="range" data-control="{place}" min="0" '
            f'max="{len(values) - 1}" value="{at}" aria-valuetext="{shown[at]}">'
        )
    else:
        options = "".join(
            f"<option{' selected' if i == at else ''}>{value}</option>"
            for i, value in enumerate(shown)
        )
        field = f'<select data-control="{place}">{options}</select>'
    # A slider's value is spoken already: the readout is for the eye.
    readout = f'<output aria-hidden="true">{shown[at] * control["number"]}</output>'
    label = f"<label><span>{label}</span> {field}</label>"
    return f'<div class="control">{label} {readout}</div>'
