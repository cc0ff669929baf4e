"""Whether readers with disabilities can use the book: axe-core on each of its pages."""

import itertools
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sbtutor import book, lessons

ROOT = Path(__file__).parents[1]
PAGES = ["index", *(lesson.stem for lesson in lessons.find(ROOT / "notebooks"))]
LIMIT = 15_000_000  # bytes of the whole book

# axe-core's own ranks; what is "moderate" or "minor" is advice.
BAD = ("serious", "critical")

# Code is read as plain text: axe takes long over thousands of coloured words, whose
# contrast a test of the book checks by the style's colours. On dark pages only colours
# differ. `preload` would fetch style sheets, which browsers refuse to do for files.
READY = """() => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const code of document.querySelectorAll(".highlight pre")) {
    code.textContent = code.textContent;
  }
}"""
RUN = """async (rules) => {
  const options = { preload: false, resultTypes: ["violations"] };
  if (rules) options.runOnly = rules;
  const found = await axe.run(document, options);
  return found.violations.map(({ id, impact, help, nodes }) =>
    ({ id, impact, help, where: nodes.map((node) => node.target.join(" ")) }));
}"""


WRONG = "<p style='color: #999; background: #aaa'>Some words</p><div role='img'></div>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The book of the committed lessons, as `make book` makes it after a clone."""
    out = tmp_path_factory.mktemp("book")
    book.make(out, ROOT / "notebooks")
    return out


@pytest.fixture(scope="module")
def script():
    """axe-core itself, as text."""
    axe = pytest.importorskip("axe_playwright_python.base")
    return axe.AXE_SCRIPT


def open_page(browser, file, scheme, trouble):
    page = browser.new_page(color_scheme=scheme)
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
    page.goto(file.as_uri())
    plots = page.locator(".plot").count()
    page.wait_for_function(
        "n => document.querySelectorAll('.js-plotly-plot').length == n", arg=plots
    )
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("stem", PAGES)
def test_no_serious_violation(site, browser, script, stem, scheme):
    trouble = []
    page = open_page(browser, site / f"{stem}.html", scheme, trouble)
    page.evaluate(READY)
    page.evaluate(script)
    found = page.evaluate(RUN, ["color-contrast"] if scheme == "dark" else None)
    page.close()
    bad = [
        f"{rule['id']} ({rule['impact']}): {rule['help']}, {len(rule['where'])} times, "
        f"as at {rule['where'][:3]}"
        for rule in found
        if rule["impact"] in BAD
    ]
    assert not bad, "\n".join(bad)
    assert trouble == [], (
        "errors on the console, or requests for what is not in the book"
    )


def test_axe_finds_what_is_wrong(browser, script):
    """A check of the check: grey on grey, and a figure that says nothing."""
    page = browser.new_page()
    page.set_content(WRONG)
    page.evaluate(script)
    found = {rule["id"] for rule in page.evaluate(RUN, None) if rule["impact"] in BAD}
    page.close()
    assert found >= {"color-contrast", "role-img-alt"}


def test_the_whole_book_is_small_and_holds_plotly_once(site):
    files = [path for path in site.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < LIMIT
    heavy = [path.name for path in files if b"plotly.js v" in path.read_bytes()[:200]]
    assert heavy == ["plotly.min.js"]
    pages = [path for path in files if path.suffix == ".html"]
    assert len(pages) == len(PAGES)
    assert all("Plotly, Inc" not in path.read_text() for path in pages)


def test_every_figure_has_words_and_numbers(site):
    for file in site.glob("*.html"):
        text = file.read_text()
        plots = text.count('<div class="plot" role="img" aria-label="')
        assert text.count('<div class="plot"') == plots
        assert text.count('<div class="words"><details') == plots
        assert 'role="img" aria-label=""' not in text
        assert 'role="img" aria-label="figure"' not in text


class Structure(HTMLParser):
    """Heading levels, names, and the names that links lead to."""

    def __init__(self, text):
        super().__init__()
        self.levels, self.ids, self.links, self.landmarks = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag[0] == "h" and tag[1:].isdigit():
            self.levels.append(int(tag[1]))
        if tag in ("header", "main", "footer"):
            self.landmarks.append(tag)
        self.ids += [given["id"]] if "id" in given else []
        href = given.get("href", "") if tag == "a" else ""
        self.links += [href[1:]] if href.startswith("#") else []


@pytest.mark.parametrize("stem", PAGES)
def test_pages_are_structured(site, stem):
    text = (site / f"{stem}.html").read_text()
    found = Structure(text)
    assert '<html lang="en">' in text
    assert found.landmarks == ["header", "main", "footer"]
    assert found.levels[0] == 1
    assert found.levels.count(1) == 1
    steps = [after - before for before, after in itertools.pairwise(found.levels)]
    assert max(steps) <= 1, "a heading's level is left out"
    assert len(found.ids) == len(set(found.ids))
    assert found.links[0] == "main"
    assert set(found.links) <= set(found.ids)
