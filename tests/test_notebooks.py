"""Hygiene of the committed lessons: small, in sync with their sources, one skeleton."""

import json
import re
import statistics
from pathlib import Path

import pytest

from sbtutor import describe, lessons, typeset

FOLDER = Path(__file__).parents[1] / "notebooks"
LESSONS = sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))
SOURCES = sorted((FOLDER / "source").glob("[0-9][0-9]_*.py"))
PAGES = [path for path in lessons.find(FOLDER) if path not in LESSONS]

SECTIONS = [
    "Objectives",
    "Predict first",
    "Explore",
    "Exercises",
    "What we saw",
    "Common mistakes",
    "References",
]

# Paths that tell whose computer built the outputs.
HERE = re.escape(str(FOLDER.parent))
MACHINE = re.compile(rf"{HERE}|/home/|/root/|/Users/|/tmp/|[A-Z]:\\\\|site-packages")


@pytest.fixture(params=[*LESSONS, *PAGES], ids=lambda path: path.stem)
def lesson(request):
    return request.param


@pytest.fixture
def nb(lesson):
    return lessons.read(lesson)


def test_each_source_has_its_notebook_and_no_notebook_lacks_one():
    assert [path.stem for path in LESSONS] == [path.stem for path in SOURCES]


def test_the_course_ends_with_its_pages():
    assert [path.stem for path in PAGES] == ["paper_vs_ours"]
    assert lessons.find(FOLDER) == [*LESSONS, *PAGES]


def test_cells_are_those_of_the_source(lesson, nb):
    source = lessons.from_source(FOLDER / "source" / f"{lesson.stem}.py")
    seen = [(c.id, c.cell_type, lessons.tags(c), c.source) for c in nb.cells]
    meant = [(c.id, c.cell_type, lessons.tags(c), c.source) for c in source.cells]
    assert seen == meant, "stale: run `make notebooks`"


def test_ran_from_top_to_bottom_without_error(nb):
    assert lessons.problem(nb) is None
    counts = [cell.execution_count for cell in lessons.code(nb)]
    assert counts == list(range(1, len(counts) + 1))


def test_is_small_and_clean(lesson, nb):
    assert lesson.stat().st_size < 300_000
    assert set(nb.metadata) == {"kernelspec", "language_info"}
    assert nb.metadata.kernelspec == lessons.KERNEL
    assert {key for cell in nb.cells for key in cell.metadata} <= {"tags"}
    kinds = {kind for out in lessons.outputs(nb) for kind in out.get("data", {})}
    assert lessons.WIDGET not in kinds
    assert "stderr" not in {out.get("name") for out in lessons.outputs(nb)}
    told = [json.dumps(out) for out in lessons.outputs(nb)]
    found = [hit[0] for text in told if (hit := MACHINE.search(text))]
    assert not found, "outputs hold paths of a machine"


def test_takes_a_preset_in_its_one_parameters_cell(nb):
    assert sum("parameters" in lessons.tags(cell) for cell in nb.cells) == 1
    assert "preset" in lessons.parameters(nb)


def test_cells_are_short(nb):
    lines = [len(cell.source.splitlines()) for cell in lessons.code(nb)]
    assert max(lines) <= 25
    assert statistics.median(lines) <= 7


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_follows_the_skeleton(nb):
    text = re.sub(r"^```.*?^```", "", lessons.prose(nb), flags=re.M | re.S)
    titles = re.findall(r"^# +(.+)$", text, re.M)
    assert len(titles) == 1
    assert titles[0].endswith("?")
    assert re.search(r"read +\d+.*do +\d+.*compute +\d+", lessons.minutes(nb))
    sections = [
        name for name in re.findall(r"^## +(.+)$", text, re.M) if name in SECTIONS
    ]
    assert sections == SECTIONS


def test_formulas_and_tables_can_be_typeset(nb):
    page = "".join(
        typeset.markdown(c.source) for c in nb.cells if c.cell_type == "markdown"
    )
    assert not re.search(r"\|\s*:?-{3,}", page), "a markdown table is not recognised"


def test_figures_say_what_they_show(nb):
    for output in lessons.outputs(nb):
        if lessons.PLOTLY in output.get("data", {}):
            assert describe.alt(output.data[lessons.PLOTLY]) != "figure"
            assert "image/png" in output.data, "run `make notebooks` with Chromium"


def test_the_teachers_notebook_is_in_sync_whole_and_small():
    path = FOLDER / "teacher.ipynb"
    nb, source = (
        lessons.read(path),
        lessons.from_source(FOLDER / "source" / "teacher.py"),
    )
    assert [cell.source for cell in nb.cells] == [cell.source for cell in source.cells]
    assert lessons.problem(nb) is None
    assert path.stat().st_size < 300_000
    told = [json.dumps(output) for output in lessons.outputs(nb)]
    assert not any(MACHINE.search(text) for text in told)
    assert any("made up" in text for text in told)
