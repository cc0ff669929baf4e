"""Each lesson in JupyterLab, in a real browser that is refused the network.

A lesson is opened and run, its controls are moved by keyboard, a point is clicked, and
the page is loaded again beside the living kernel. What was seen is kept in a `Visit`;
the tests look at that.
"""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import lab
import pytest

from sbtutor import lessons

FOLDER = Path(__file__).parents[1] / "notebooks"
SOURCES = sorted((FOLDER / "source").glob("[0-9][0-9]_*.py"))
STEMS = [source.stem for source in SOURCES]

# In the kernel: what each explorer's figure should be, and what was clicked in it.
PROBE = """
import json, ipywidgets
from sbtutor.explore import Clicks, Explorer
def _probe():
    for box in list(ipywidgets.widgets.widget._instances.values()):
        if isinstance(box, Explorer):
            values = {name: control.value for name, control in box.controls.items()}
            figure = json.loads(box.draw(**values).to_json())
            clicked = [w.value for w in box.children if isinstance(w, Clicks)]
            title = figure["layout"]["title"]["text"]
            shown = [{"title": title, "data": figure["data"]}]
            yield dict(figures=shown, controls=len(values), clicked="".join(clicked))
"""
PARTS = ("type", "name", "x", "y", "z", "text", "customdata")


class Visit(NamedTuple):
    """What was seen of a lesson."""

    ran: bool
    broken: list[str]  # outputs that should not be, before and after the reload
    trouble: list[str]  # complaints of the page, requests for other hosts
    figures: list[dict]
    sliders: list[str | None]
    stuck: list[str]  # controls that no key moves
    first: list[dict]  # the explorers before the moves
    moved: list[dict]  # after them
    kernel: list[dict]  # as the kernel then draws them
    clicks: list[dict]  # explorers before and after a point was clicked
    before: list[dict]  # the explorers just before the reload
    after: list[dict]  # and after it
    figures_after: list[dict]
    sliders_after: list[str | None]
    picture: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """JupyterLab on copies of the lessons, built from their sources."""
    work = tmp_path_factory.mktemp("lab")
    root = work / "notebooks"
    shutil.copytree(FOLDER / "results", root / "results")
    for source in SOURCES:
        lessons.write(lessons.from_source(source), root / f"{source.stem}.ipynb")
    kept = {"SBTUTOR_RUNS": str(work / "runs"), "SBTUTOR_PRESET": "smoke"}
    kept["SBTUTOR_JOURNAL"] = str(work / "progress.json")
    with lab.serve(root, work / "server", **kept, OMP_NUM_THREADS="1") as server:
        yield server


@pytest.fixture(scope="module", params=STEMS)
def visit(request, server, browser, tmp_path_factory):
    stem, trouble = request.param, []
    picture = tmp_path_factory.mktemp(stem) / f"{stem}.png"
    page = lab.open_page(browser, server, trouble)
    try:
        lab.open_lesson(page, server, f"{stem}.ipynb")
        lab.start_all(page)
        ran = lab.await_all(page)
        seen = look(page)
    finally:
        page.screenshot(path=picture)
        lab.close(page)
    return Visit(ran=ran, trouble=trouble, picture=picture, **seen)


def look(page) -> dict:
    """Move, click, reload; what is seen on the way."""
    seen = {"broken": lab.broken(page), "figures": lab.figures(page)}
    seen |= {"sliders": lab.sliders(page), "first": lab.explorers(page)}
    rows = page.locator(f".sbtutor-explorer {lab.ROWS}").all()
    seen["stuck"] = [row.inner_html() for row in rows if not lab.move(page, row)]
    seen["moved"], seen["kernel"] = settled(page)
    seen["clicks"] = clicks(page)
    seen["before"] = lab.explorers(page)
    lab.command(page, "docmanager:save")
    page.reload()
    lab.settle(page)
    lab.await_figures(page)
    seen["after"] = lab.explorers(page)
    seen["broken"] += lab.broken(page)
    seen |= {"figures_after": lab.figures(page), "sliders_after": lab.sliders(page)}
    return seen


def drawn(explorers: list[dict]) -> list[tuple]:
    """Title and numbers of each explorer's own figure.

    plotly.js fills in defaults beside what it was given, so not all is compared.
    """
    own = [box["figures"][0] for box in explorers]
    return [
        (
            figure["title"],
            [[trace.get(part) for part in PARTS] for trace in figure["data"]],
        )
        for figure in own
    ]


def settled(page) -> tuple[list[dict], list[dict]]:
    """The explorers once they show what the kernel would draw, or never will."""
    for _ in range(20):
        wanted = lab.ask(page, "list(_probe())", PROBE)
        shown = lab.explorers(page)
        if drawn(shown) == drawn(wanted):
            break
        page.wait_for_timeout(500)
    return shown, wanted


def clicks(page) -> list[dict]:
    """Each explorer that has points to click: what it shows before and after."""
    seen = []
    boxes = page.locator(".sbtutor-explorer").all()
    for at, box in enumerate(boxes):
        before = box.inner_text()
        if lab.click_point(page, box):
            page.wait_for_timeout(1000)
            heard = lab.ask(page, "list(_probe())", PROBE)[at]["clicked"]
            seen.append({"before": before, "after": box.inner_text(), "heard": heard})
    return seen


def test_runs_and_shows_nothing_broken(visit):
    assert visit.ran, f"a cell failed: {visit.broken}; see {visit.picture}"
    assert visit.broken == [], f"see {visit.picture}"
    assert all(figure["drawn"] for figure in visit.figures + visit.figures_after)


def test_the_page_complains_of_nothing_and_asks_no_other_host(visit):
    assert visit.trouble == []


def test_figures_have_a_text_alternative(visit):
    for figure in visit.figures + visit.figures_after:
        assert figure["role"] == "figure", figure["title"]
        assert figure["label"], figure["title"]


def test_sliders_have_a_label(visit):
    assert all(visit.sliders + visit.sliders_after), visit.sliders


def test_each_control_moves_by_keyboard_and_its_figure_follows(visit):
    assert visit.stuck == []
    assert visit.first, "a lesson without an explorer"
    seen = zip(visit.first, visit.moved, visit.kernel, strict=True)
    for first, moved, kernel in seen:
        assert len(moved["controls"]) == kernel["controls"]
        pairs = zip(first["controls"], moved["controls"], strict=True)
        assert all(before != after for before, after in pairs)
        assert drawn([moved]) == drawn([kernel]), visit.picture


def test_a_click_on_a_point_is_heard_and_shown(visit):
    for click in visit.clicks:
        assert json.loads(click["heard"])["point"] is not None
        assert click["after"] != click["before"]


def test_a_reload_beside_the_living_kernel_changes_nothing(visit):
    for before, after in zip(visit.before, visit.after, strict=True):
        assert after["controls"] == before["controls"]
        assert drawn([after]) == drawn([before])
        assert after["figures"] == before["figures"]
