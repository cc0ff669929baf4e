"""Each lesson in JupyterLab, in a real browser that is refused the network.

A lesson is opened and run, its controls are moved by keyboard, a point is clicked, and
the page is loaded again beside the living kernel. What was seen is kept in a `Visit`;
the tests look at that.
"""

import contextlib
import json
import re
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import lab
import lab_page
import nbformat
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
            points = any(trace.get("customdata") for trace in figure["data"])
            yield dict(figures=shown, controls=len(values), clicked="".join(clicked),
                points=points)
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


@pytest.fixture(scope="module")
def opened(request, server, browser):
    """A lesson's page and its complaints, while the next lesson is already running."""
    params = [getattr(item, "callspec", None) for item in request.session.items]
    stems = [spec.params["visit"] for spec in params if spec and "visit" in spec.params]
    stems, waiting = list(dict.fromkeys(stems)), {}

    def get(stem):
        at = stems.index(stem)
        for near in stems[at : at + 2]:
            if near not in waiting:
                trouble = []
                page = lab.open_page(browser, server, trouble)
                lab.open_lesson(page, server, f"{near}.ipynb")
                lab.start_all(page)
                waiting[near] = page, trouble
        return waiting.pop(stem)

    return get


@pytest.fixture(scope="module", params=STEMS)
def visit(request, opened, tmp_path_factory):
    from playwright.sync_api import Error

    picture = tmp_path_factory.mktemp(request.param) / "page.png"
    page, trouble = opened(request.param)
    try:
        ran = lab.await_all(page)
        seen = look(page) | {"trouble": list(trouble)}
    finally:
        with contextlib.suppress(Error):  # what went wrong before counts
            lab_page.picture(page, picture)
        lab.close(page)
    return Visit(ran=ran, picture=picture, **seen)


def look(page) -> dict:
    """Move, click, reload; what is seen on the way."""
    seen = {"broken": lab_page.broken(page), "figures": lab_page.figures(page)}
    seen |= {"sliders": lab_page.sliders(page), "first": lab_page.explorers(page)}
    rows = page.locator(f".jp-OutputArea {lab_page.ROWS}").all()
    until = time.monotonic() + lab.WAIT / 1000
    stuck = [row for row in rows if not lab_page.move(page, row, until)]
    seen["stuck"] = [row.inner_html() for row in stuck]
    seen["moved"], seen["kernel"] = settled(page)
    seen["clicks"] = clicks(page)
    seen["before"] = lab_page.explorers(page)
    lab.command(page, "docmanager:save")
    page.reload()
    lab.settle(page)
    lab.await_figures(page)
    seen["after"] = lab_page.explorers(page)
    seen["broken"] += lab_page.broken(page)
    seen |= {
        "figures_after": lab_page.figures(page),
        "sliders_after": lab_page.sliders(page),
    }
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
    until = time.monotonic() + lab.WAIT / 1000
    while time.monotonic() < until:
        wanted = lab.ask(page, "list(_probe())", PROBE)
        shown = lab_page.explorers(page)
        if drawn(shown) == drawn(wanted):
            break
        page.wait_for_timeout(500)
    return shown, wanted


def clicks(page) -> list[dict]:
    """Each explorer that has points to click: what it shows before and after."""
    seen = []
    boxes = page.locator(lab_page.EXPLORER).all()
    for at, box in enumerate(boxes):
        before = box.inner_text()
        if lab_page.click_point(page, box):
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
    assert len(visit.clicks) == sum(box["points"] for box in visit.kernel)
    for click in visit.clicks:
        assert json.loads(click["heard"])["point"] is not None
        assert click["after"] != click["before"]


def test_a_reload_beside_the_living_kernel_changes_nothing(visit):
    for before, after in zip(visit.before, visit.after, strict=True):
        assert after["controls"] == before["controls"]
        assert drawn([after]) == drawn([before])
        assert after["figures"] == before["figures"]
    # JupyterLab saves figures as pictures, too, and those have no text alternative.
    assert len(visit.figures_after) == len(visit.figures)


SMALL = """
from sbtutor import session, widgets
lesson = session.start("00", "smoke", 0)
trainer = widgets.trainer(lesson.vary(epochs=5000, milestones=[]))
trainer
"""


@pytest.fixture
def small(server, browser, request):
    """A page with nothing but the live trainer; all cells have run."""
    cells = [nbformat.v4.new_code_cell(source) for source in (SMALL, "1 + 1")]
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": lessons.KERNEL})
    lessons.write(nb, server.root / "small.ipynb")
    trouble = []
    page = lab.open_page(browser, server, trouble)
    lab.open_lesson(page, server, "small.ipynb")
    lab.start_all(page)
    assert lab.await_all(page), lab_page.broken(page)
    yield page
    lab.close(page)
    assert trouble == []


def title(page) -> str:
    (figure,) = lab_page.figures(page)
    return figure["title"]


def press(page, name: str) -> None:
    button = page.locator("button.jupyter-button", has_text=name)
    button.focus()
    page.keyboard.press("Space")


def await_title(page, part: str) -> str:
    """The figure's title once it has this part."""
    call = "(part) => document.querySelector('.gtitle')?.textContent.includes(part)"
    page.wait_for_function(call, arg=part)
    return title(page)


def await_epoch(page, least: int) -> int:
    """Wait until so many epochs are done; returns how many are."""
    page.wait_for_function(
        """(least) => least <= Number(/(\\d+) of 5000 epochs/.exec(
          document.querySelector(".gtitle")?.textContent)?.[1])""",
        arg=least,
    )
    return int(re.search(r"(\d+) of 5000", title(page))[1])


def test_the_trainer_trains_pauses_and_stops_beside_other_cells(small):
    assert title(small).startswith("Press Start")
    press(small, "Start")
    done = await_epoch(small, 2)
    lab.run_last(small)  # while it trains
    await_epoch(small, done + 2)
    press(small, "Pause")
    paused = await_title(small, "paused")
    small.wait_for_timeout(1500)
    assert title(small) == paused
    press(small, "Resume")
    await_epoch(small, int(re.search(r"(\d+) of 5000", paused)[1]) + 2)
    press(small, "Stop")
    stopped = await_title(small, "stopped")
    small.wait_for_timeout(1000)
    assert title(small) == stopped
    assert lab_page.broken(small) == []


def _turn(page, theme, light):
    """Change JupyterLab's theme; its splash screen must go before the next change."""
    lab.command(page, "apputils:change-theme", theme=f"JupyterLab {theme}")
    turned = f"body[data-jp-theme-light={light}]"
    page.wait_for_selector(turned, state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")


def test_figures_follow_the_dark_theme(small):
    paper = """() => getComputedStyle(
      document.querySelector(".js-plotly-plot .main-svg")).backgroundColor"""
    assert small.evaluate(paper) == "rgb(255, 255, 255)"
    try:
        _turn(small, "Dark", "false")
        dark = small.evaluate(paper)
    finally:
        _turn(small, "Light", "true")
    red, green, blue = (int(part) for part in re.findall(r"\d+", dark))
    assert max(red, green, blue) < 64, dark
