"""The offline book, and what readers find in it with a browser."""

import re

import nbformat
import plotly.graph_objects as go
import pytest
from ipywidgets import FloatSlider
from pygments.styles import get_style_by_name
from pygments.token import Generic, Whitespace

from sbtutor import book, lessons, theme, twins, typeset

FIRST = r"""# Does one work?

**Minutes:** read 1, do 3, compute 0

## Objectives

You can then

- tell *up* from down;
- count.

## Sums

$$\begin{aligned} a &= \frac{1}{2} \\ b &= \hat y \end{aligned}$$

Back to [the second](02_bad.ipynb#here).

## Exercises

**1. A vote** (easy, 3 minutes). Vote.
"""

TITLE = "a </script> & b"


def said(data):
    return nbformat.v4.new_output("display_data", data)


def html(text):
    return said({"text/html": text})


def figure(a):
    drawn = go.Figure(go.Scatter(y=[0, a, 1]), {"title": f"a is {a:.1f}"})
    return drawn.update_layout(meta={"alt": f"The middle is at {a:.1f}."}, width=900)


def code(source, *outputs, tags=()):
    cell = nbformat.v4.new_code_cell(source, outputs=list(outputs), execution_count=1)
    cell.metadata["tags"] = list(tags)
    return cell


def notebook(*cells):
    cells = [nbformat.v4.new_markdown_cell(c) if c == str(c) else c for c in cells]
    return nbformat.v4.new_notebook(cells=cells)


def still(spec):
    return said({lessons.PLOTLY: spec})


def committed(folder):
    """Two lessons as they are committed: one with a twin in the side file."""
    words = html('<details class="sbtutor-words">In words, for JupyterLab</details>')
    page = html('<style data-sbtutor="page">.mine { color: red }</style>')
    spec = {
        "data": [{"y": [1, 3, 2]}],
        "layout": {"title": {"text": "a </script> & b"}},
    }
    wide = "<table><tr>" + "<td>number</td>" * 60 + "</tr></table>"
    explorer = code("explore(figure)", said({"text/plain": lessons.CONTROLS}))
    vote = code("vote(...)", tags=["exercise"])
    first = notebook(
        FIRST, code("start()", page), code("show()", still(spec), words),
        code("wide", html(wide)), explorer, code("long = " + "1 + " * 90 + "1"), vote,
    )  # fmt: skip
    lessons.write(first, folder / "01_good.ipynb")
    twin = twins.states(figure, {"a": FloatSlider(0.5, min=0, max=1, step=0.5)})
    twins.save({explorer.id: [twins.pack(twin)]}, folder / "01_good.ipynb")
    lessons.write(notebook("# Does two work?"), folder / "02_bad.ipynb")
    lessons.write(notebook("# Does three work?"), folder / "03_dead.ipynb")
    lessons.write(notebook("# How near?"), folder / "paper_vs_ours.ipynb")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    committed(folder)
    book.make(folder / "out", folder)
    return folder / "out"


@pytest.fixture
def trouble():
    """Complaints of the browser, and requests for what is not in the book."""
    return []


@pytest.fixture
def page(browser, trouble):
    page = browser.new_page(viewport={"width": 700, "height": 800})
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)

    def local_only(route):
        url = route.request.url
        if url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            trouble.append(url)
            route.abort()

    page.route("**/*", local_only)
    yield page
    page.close()
    assert trouble == []


def drawn(page, place):
    """A figure's title and data, as plotly has drawn them."""
    page.wait_for_selector(f".figure >> nth={place} >> .js-line")
    plot = page.locator(".plot").nth(place)
    return plot.evaluate("p => [p.layout.title.text, [...p.data[0].y]]")


def test_the_book_refers_to_no_other_host(site):
    for file in site.glob("*.html"):
        links = [word for word in file.read_text().split('"') if "//" in word[:9]]
        # A name of MathML's, which nobody fetches.
        assert set(links) <= {"http://www.w3.org/1998/Math/MathML"}


def test_the_book_holds_plotly_once(site):
    scripts = [file.name for file in site.glob("*.js")]
    assert sorted(scripts) == ["book.js", "plotly.min.js"]
    assert "plotly.min.js" in (site / "01_good.html").read_text()
    assert "plotly.min.js" not in (site / "02_bad.html").read_text(), "no figure there"


def test_committed_lessons_that_were_not_run_come_as_they_are(site):
    index = (site / "index.html").read_text()
    assert index.count("as it came, not run here") == 4


def test_a_page_beside_the_lessons_comes_last_and_has_no_number(site):
    index = (site / "index.html").read_text()
    entries = index.split("<li><h2>")[1:]
    assert '<a href="paper_vs_ours.html">How near?</a>' in entries[-1]
    assert ">Beside the lessons; " in entries[-1]
    assert ">Beside the lessons: " in (site / "paper_vs_ours.html").read_text()
    assert all(">Lesson 0" in entry for entry in entries[:-1])
    assert 'rel="next" href="paper_vs_ours.html"' in (site / "03_dead.html").read_text()


def test_links_between_lessons_and_pages_lead_to_pages_of_the_book():
    said = typeset.markdown("[a](01_good.ipynb#x), [b](./paper_vs_ours.ipynb)")
    assert 'href="01_good.html#x"' in said
    assert 'href="paper_vs_ours.html"' in said


def test_the_contents_tell_what_a_lesson_asks_teaches_and_takes(site):
    index = (site / "index.html").read_text()
    assert '<a href="01_good.html">Does one work?</a>' in index
    assert "After it you can tell <em>up</em> from down; count." in index
    assert "minutes: read 1, do 3, compute 0" in index
    assert "<summary>1 exercise, 3 minutes</summary>" in index
    assert '<a href="01_good.html#exercise-1">A vote</a> (easy, 3 minutes)' in index


def test_objectives_become_one_sentence():
    told = "You can\n\n- a *b*;\n- c, and\n  d.\n\nNot:\n- e"
    nb = notebook("# W\n\n## Objectives\n\n" + told, "## More\n\n- f")
    assert book.objectives(nb) == "After it you can a *b*; c, and d."
    assert book.objectives(notebook("# W", "- f")) == ""


def test_what_is_meant_for_jupyterlab_or_said_anyway_is_left_out(site):
    text = (site / "01_good.html").read_text()
    assert 'data-sbtutor="page"' not in text
    assert "In words, for JupyterLab" not in text
    assert text.count('<details class="sbtutor-words"') == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_code_can_be_read_in_all_its_colours(scheme):
    """WCAG 2 asks for a contrast of 4.5 : 1."""
    style = (book.ASSETS / "book.css").read_text()
    grounds = dict(zip(("light", "dark"), re.findall(r"--code: (#\w+)", style)))
    seen = {
        f"#{look['color']}"
        for token, look in get_style_by_name(book.CODE[scheme])
        if look["color"] and token not in Whitespace and token not in Generic
    }
    assert len(seen) > 5
    poor = {c for c in seen if theme.contrast(c, grounds[scheme]) < 4.5}
    assert not poor


def test_words_that_follow_no_figure_stay():
    nb = notebook(code("x", html('<p class="sbtutor-words">alone</p>')))
    assert "alone" in book.body(nb)


def test_a_twin_of_this_very_run_goes_before_the_kept_one():
    new, old = (
        twins.pack(
            twins.states(figure, {"a": FloatSlider(a, min=a, max=a + 1, step=1)})
        )
        for a in (3, 7)
    )
    cell = code("x", said({"text/plain": lessons.CONTROLS, twins.MIME: new}))
    assert "The middle is at 3.0" in book.body(notebook(cell), {cell.id: [old]})
    del cell.outputs[0].data[twins.MIME]
    assert "The middle is at 7.0" in book.body(notebook(cell), {cell.id: [old]})
    assert lessons.CONTROLS in book.body(notebook(cell))


def test_errors_are_shown_without_their_colours():
    error = nbformat.v4.new_output(
        "error", ename="E", evalue="", traceback=["\x1b[31mE\x1b[0m: <no>"]
    )
    assert '<pre class="output bad">E: &lt;no&gt;</pre>' in book.body(
        notebook(code("1 / 0", error))
    )


def test_from_page_to_page(site, page):
    page.goto((site / "index.html").as_uri())
    page.get_by_text("Does one work?").click()
    title, values = drawn(page, 0)
    assert (title, values) == (TITLE, [1, 3, 2])
    assert page.locator(".plot").first.get_attribute("role") == "img"
    assert page.locator(".plot .gtitle").first.text_content() == TITLE
    assert page.locator("math mfrac").bounding_box()["height"] > 10
    width = "[document.documentElement.scrollWidth, window.innerWidth]"
    assert len(set(page.evaluate(width))) == 1, "the page, not the table, scrolls"
    page.get_by_text("the second").click()
    page.get_by_text("02 bad →").wait_for(state="detached")
    assert page.locator("h1").text_content() == "Does two work?"
    page.get_by_text("03 dead →").first.click()
    assert page.locator("h1").text_content() == "Does three work?"


def test_keys_move_a_twin(site, page):
    page.goto((site / "01_good.html").as_uri())
    slider, twin = page.get_by_label("a", exact=True), page.locator(".figure").nth(1)
    assert drawn(page, 1) == ["a is 0.5", [0, 0.5, 1]]
    words = twin.locator(".words")
    words.locator("summary").click()
    slider.focus()
    for key, value in (("ArrowRight", 1), ("Home", 0), ("ArrowUp", 0.5)):
        page.keyboard.press(key)
        assert drawn(page, 1) == [f"a is {value:.1f}", [0, value, 1]]
        assert twin.locator("output").text_content() == f"{value:.4g}"
        assert slider.get_attribute("aria-valuetext") == f"{value:.4g}"
        alt = f"The middle is at {value:.1f}."
        assert twin.locator(".plot").get_attribute("aria-label") == alt
        assert alt in words.text_content()
        assert words.locator("details").get_attribute("open") is not None
    live = page.locator("[aria-live=polite]")
    page.wait_for_function("live => live.textContent", arg=live.element_handle())
    assert live.text_content() == "The middle is at 0.5."


def test_a_twin_can_change_its_number_of_lines(tmp_path, page):
    def several(n):
        return go.Figure([go.Scatter(y=[0, i], name=str(i)) for i in range(int(n))])

    twin = twins.states(several, {"n": FloatSlider(1, min=1, max=3, step=1)})
    output = said({"text/plain": lessons.CONTROLS, twins.MIME: twins.pack(twin)})
    cell = code("x", output)
    lessons.write(notebook("# Q?", cell), tmp_path / "01_x.ipynb")
    page.goto((book.make(tmp_path / "out", tmp_path).parent / "01_x.html").as_uri())
    lines = page.locator(".plot .scatterlayer .js-line")
    lines.first.wait_for(state="attached")  # a flat line counts as hidden
    for key, count in (("End", 3), ("ArrowLeft", 2), ("Home", 1)):
        page.get_by_role("slider").press(key)
        assert lines.count() == count


def test_a_page_can_be_read_by_keys_alone(site, page):
    page.goto((site / "01_good.html").as_uri())
    drawn(page, 1)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => { const at = document.activeElement;
                return [at.localName, at.className, at.ariaLabel ?? "",
                        getComputedStyle(at).outlineStyle]; }"""
            )
        )
        if len(seen) > 1 and seen[-1][0] == "body":
            break
    stops = [stop for stop in seen if stop[0] != "body"]
    assert stops[0][:2] == ["a", "skip"]
    assert {outline for *_, outline in stops} == {"solid"}, "each stop can be seen"
    names = {name for name, *_ in stops}
    assert names >= {"a", "input", "summary", "div", "pre"}
    wide = [label for _, kind, label, _ in stops if kind == "table"]
    assert wide == ["Table 2, wider than the page"], "the others fit, or are folded"
    assert not any("modebar" in kind for _, kind, *_ in stops)


def test_skipping_leads_to_the_text(site, page):
    page.goto((site / "01_good.html").as_uri())
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"


def test_without_javascript_a_still_description_remains(site, browser):
    page = browser.new_page(java_script_enabled=False)
    page.goto((site / "01_good.html").as_uri())
    assert not page.locator("fieldset").is_visible()
    page.locator(".words summary").nth(1).click()
    assert page.get_by_text("The middle is at 0.5.").first.is_visible()
    page.close()


def test_printing_opens_what_is_folded(site, page):
    page.goto((site / "01_good.html").as_uri())
    drawn(page, 1)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.emulate_media(media="print")
    assert not page.locator("fieldset").is_visible()
    assert not page.locator("header").is_visible()


def test_figures_fit_a_narrow_page(tmp_path, page):
    title = "Some title with so many words that they take several lines there"
    data = [{"y": [1, 3, 2], "name": "one"}, {"y": [2, 2, 1], "name": "two"}]
    shown = still({"data": data, "layout": {"title": {"text": title}}})
    lessons.write(notebook("# Q?", code("x", shown)), tmp_path / "01_x.ipynb")
    page.set_viewport_size({"width": 320, "height": 800})
    page.goto((book.make(tmp_path / "out", tmp_path).parent / "01_x.html").as_uri())
    drawn(page, 0)
    lines = page.locator(".gtitle tspan").all_text_contents()
    assert len(lines) > 1
    assert " ".join(lines) == title
    assert page.locator(".gtitle").evaluate(
        "t => t.getBoundingClientRect().right <= innerWidth"
    )
    legend, axis = (
        page.locator(f".plot {part}").first for part in (".legend", ".xtick")
    )
    assert legend.bounding_box()["y"] > axis.bounding_box()["y"], "it stands below"


def test_figures_follow_a_dark_page(site, browser):
    page = browser.new_page(color_scheme="dark")
    page.goto((site / "01_good.html").as_uri())
    drawn(page, 1)
    paper = "svg => getComputedStyle(svg).backgroundColor"
    shade = page.locator(".plot .main-svg").first.evaluate(paper)
    assert shade == page.locator("body").evaluate(paper) == "rgb(20, 23, 27)"
    page.close()
