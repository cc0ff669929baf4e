"""Parts of the book's pages."""

import json
import re
from html.parser import HTMLParser

import ipywidgets
import plotly.graph_objects as go
import pytest

from sbtutor import twins, typeset


@pytest.mark.parametrize(
    "latex",
    [
        r"\mathbb{E}_{i \ne j}\, P(\hat y_i \neq \hat y_j)",
        r"\operatorname{DER} = \frac{\sum_{i<j} d_{ij}}{\text{50\% of } n} \le 1",
        r"\operatorname*{arg\,max}_c \bar p_c, \quad \arg\min_w \|w\|_2^2",
        r"f(x) = \begin{cases} 1 & x > 0 \\ 0 & \text{else} \end{cases}",
        r"\begin{aligned} a &= |b| \\ &= \left\lVert c \right\rVert \end{aligned}",
        r"\varepsilon^\ast = \rho g / \lVert g \rVert, \mathbb{1}[a \sim b]",
    ],
)
def test_formulas_become_mathml(latex):
    from xml.etree import ElementTree

    tree = ElementTree.fromstring(typeset.mathml(latex, "block"))
    text = "".join(tree.itertext())
    assert "\\" not in text
    assert "&" not in text


@pytest.mark.parametrize(
    ("latex", "match"),
    [
        (r"a \nosuchthing b", r"cannot typeset '\\\\nosuchthing' in"),
        ("a & b", r"cannot typeset '&' in"),
        (r"\left( a", r"cannot typeset \$\\left\( a\$: Extra"),
    ],
)
def test_formulas_that_cannot_be_typeset_are_named(latex, match):
    with pytest.raises(ValueError, match=match):
        typeset.mathml(latex)


def test_money_and_code_are_no_formulas():
    page = typeset.markdown("It costs $5 and $6, `$a$`.\n\n```python\nx = '$b$'\n```\n")
    assert "<math" not in page
    assert "$5 and $6" in page
    assert typeset.markdown("so $a$ and $b$-wise").count("<math") == 2


def test_figures_are_described_and_cannot_break_out_of_their_page():
    spec = {"data": [{"name": "</script><b>"}], "layout": {"title": {"text": '<i>"T"'}}}
    page = typeset.figure(spec)
    assert 'aria-label="&quot;T&quot;' in page
    assert page.count("</script>") == 1
    spec["data"][0]["name"] = "<!--<script>"  # would swallow the script's end
    assert "<!--" not in typeset.figure(spec)
    data = json.loads(re.search(r'json">(.*?)</script>', typeset.figure(spec))[1])
    assert data["data"] == spec["data"]
    spec["layout"]["meta"] = {"alt": "error falls"}
    assert 'aria-label="error falls"' in typeset.figure(spec)
    assert 'aria-label="figure"' in typeset.figure({"data": []})


def test_a_figure_comes_with_its_words_and_numbers():
    spec = {"data": [{"type": "scatter", "x": [1, 2], "y": [0.25, 0.75], "name": "a"}]}
    page = typeset.figure(spec | {"layout": {"meta": {"alt": "a rises"}}})
    words = re.search(r'<div class="words">(.*?)</div>\n<script', page, re.S)[1]
    assert words.count("<details") == 1
    assert "<p>a rises</p>" in words
    assert "0.75" in words


def test_exercises_get_a_heading_that_can_be_linked_to():
    page = typeset.markdown(
        "**2. A *vote*** (medium, 10 minutes). Let each\nmember vote."
    )
    assert page.startswith(
        '<h3 class="exercise" id="exercise-2">Exercise 2. A <em>vote'
    )
    assert '<span class="level">medium, 10 minutes</span></h3>' in page
    assert "<p>Let each\nmember vote.</p>" in page
    assert "<h3" not in typeset.markdown("**2. A vote** is no exercise")


def test_the_outline_names_headings_once_each():
    html = "<h2>So it is</h2><h2>So <em>it</em> is</h2><h2>?</h2><h3>no</h3>"
    named, headings = typeset.outline(html)
    names = ["1-so-it-is", "2-so-it-is", "3"]
    assert [name for name, _ in headings] == names
    assert [text for _, text in headings] == ["So it is", "So <em>it</em> is", "?"]
    assert re.findall(r'<h2 id="(.+?)">', named) == names


def test_what_is_printed_is_text_without_colours():
    said = typeset.printed("\x1b[31m<b> & c\x1b[0m", "output bad")
    assert said == '<pre class="output bad">&lt;b&gt; &amp; c</pre>\n'


def test_tables_scroll_and_have_no_empty_heads():
    html = typeset.scrolling('<table><th colspan="2"> </th><th>a</th></table>')
    inside = '<table><td colspan="2"></td><th>a</th></table>'
    assert html == f'<div class="table">{inside}</div>'


def test_code_is_coloured_and_cannot_break_out():
    page = typeset.code("x = '</pre><b>'")
    assert page.startswith('<div class="highlight"><pre>')
    assert page.count("</pre>") == 1


class Tags(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def bars(height, kind, fixed):
    figure = go.Figure(go.Bar(y=[height, fixed]), {"title": f"{kind} {height}"})
    return figure.update_layout(meta={"alt": f"A bar of {height}, {kind}."})


def test_a_twin_has_native_controls_with_labels():
    controls = {
        "height": ipywidgets.FloatSlider(0.2, min=0, max=0.3, step=0.1),
        "kind": ipywidgets.Dropdown(options=["good & plain", "bad"], value="bad"),
        "fixed": ipywidgets.IntSlider(1, max=5),
    }
    controls["height"].description = "Height <m>"
    made = twins.states(bars, controls, {"fixed": [1]})
    page = typeset.twin(twins.pack(made))
    tags = Tags(page)
    (slider,) = tags.all("input")
    assert slider["type"] == "range"
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "3", "2")
    assert slider["aria-valuetext"] == "0.2"
    assert "<span>Height &lt;m&gt;</span> <input" in page
    assert re.findall("<output[^>]*>(.*?)</output>", page) == ["0.2", ""]
    assert len(tags.all("select")) == 1
    assert "<option>good &amp; plain</option><option selected>bad</option>" in page
    assert "hidden" in tags.all("fieldset")[0], "dead without JavaScript"
    assert typeset.ABOUT_TWIN in page


def test_a_twin_shows_its_current_figure_and_holds_all_others_with_their_words():
    controls = {"height": ipywidgets.IntSlider(1, max=2)}
    made = twins.states(lambda height: bars(height, "x", 1), controls)
    page = typeset.twin(twins.pack(made))
    labels = [tag["aria-label"] for tag in Tags(page).all("div") if "role" in tag]
    assert labels == ["A bar of 1, x."]
    data = json.loads(re.search(r'json">(.*?)</script>', page, re.S)[1])
    whole = twins.unpack(data)
    assert whole["figures"] == made["figures"]
    assert ["A bar of 2, x." in words for words in whole["words"]] == [
        False,
        False,
        True,
    ]
