"""Running lessons, building them from sources, and the offline book."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from sbtutor import course, lessons, twins

ROOT = Path(__file__).parents[1]

HEAD = """# %% [markdown]
# # Does {name} work?
#
# **Minutes:** read 1, do 2, compute {compute}

# %% tags=["parameters"]
preset: str = "class"  # smoke, class or paper

"""
GOOD = """# %%
import os, sys
print([preset, os.environ["OMP_NUM_THREADS"], sys.executable, os.getcwd()])

# %%
import plotly.graph_objects as go
go.Figure(go.Scatter(y=[1, 3, 2]), {"title": "a </script> & b", "meta": {"alt": "up"}})

# %%
from ipywidgets import IntSlider
from sbtutor import explore
explore.explore(lambda a: go.Figure(go.Scatter(y=[0, a])), a=IntSlider(1, max=2))

# %%
IntSlider()

# %%
import pandas as pd
pd.DataFrame([range(40)])

# %% [markdown]
# $$\\begin{aligned} a &= \\frac{1}{2} \\\\ b &= \\hat y \\end{aligned}$$
#
# Back to [the second](02_bad.ipynb#here).
"""


def write_source(folder, stem, text, compute=0.0):
    (folder / "source").mkdir(exist_ok=True)
    head = HEAD.format(name=stem, compute=compute)
    source = folder / "source" / f"{stem}.py"
    source.write_text(head + text)
    return source


def write_lesson(folder, stem, text, compute=0.0):
    source = write_source(folder, stem, text, compute)
    lessons.write(lessons.from_source(source), folder / f"{stem}.ipynb")


def notebook(*sources):
    cells = [nbformat.v4.new_markdown_cell(s) for s in sources]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A course of three lessons: one good, one that raises, one whose kernel dies."""
    folder = tmp_path_factory.mktemp("notebooks")
    write_lesson(folder, "01_good", GOOD)
    write_lesson(folder, "02_bad", "# %%\n1 / 0\n\n# %%\nprint('never')\n", compute=5)
    write_lesson(folder, "03_dead", "# %%\nimport os\nos._exit(9)\n", compute=9.5)
    command = [sys.executable, "-m", "sbtutor.course", "run", "--preset", "smoke"]
    where = ["--notebooks", str(folder), "--out", str(folder / "out")]
    done = subprocess.run(command + where, cwd=ROOT, capture_output=True, text=True)
    return folder / "out", done


def test_run_reports_each_lesson_and_fails_if_one_did(ran):
    out, done = ran
    assert done.returncode == 1
    assert "01_good: done in" in done.stdout
    assert "02_bad: FAILED" in done.stdout
    assert "code cell 3: ZeroDivisionError: division by zero" in done.stdout
    assert "03_dead: FAILED" in done.stdout
    assert "did the kernel die?" in done.stdout
    assert done.stderr == "FAILED: 02_bad, 03_dead\n"
    assert lessons.problem(lessons.read(out / "01_good.ipynb")) is None


def test_run_starts_the_lesson_with_most_compute_first(ran):
    said = ran[1].stdout
    starts = [
        said.index(f"{stem}: started") for stem in ("03_dead", "02_bad", "01_good")
    ]
    assert starts == sorted(starts)


def test_run_uses_this_interpreter_one_thread_the_preset_and_the_folder(ran):
    out, _ = ran
    printed = next(lessons.outputs(lessons.read(out / "01_good.ipynb"))).text
    expected = ["smoke", "1", sys.executable, str(out.parent.resolve())]
    assert printed == f"{expected}\n"


def test_run_leaves_no_widget_and_no_widget_state(ran):
    nb = lessons.read(ran[0] / "01_good.ipynb")
    assert "widgets" not in nb.metadata
    kinds = {kind for out in lessons.outputs(nb) for kind in out.get("data", {})}
    assert lessons.WIDGET not in kinds


def test_run_keeps_the_twins_of_explorers_for_the_book(ran):
    nb = lessons.read(ran[0] / "01_good.ipynb")
    ((cell, (twin,)),) = lessons.take_twins(nb).items()
    assert cell == "01-from-ipywidgets-import-intslider"
    assert [f["data"][0]["y"] for f in twins.unpack(twin)["figures"]] == [
        [0, 0],
        [0, 1],
        [0, 2],
    ]
    assert lessons.take_twins(nb) == {}
    page = (ran[0] / "01_good.html").read_text()
    assert page.count('type="range"') == 1
    assert page.count(lessons.CONTROLS) == 1  # the slider on its own has no twin


def test_the_book_names_each_lesson_and_its_failure(ran):
    page = (ran[0] / "index.html").read_text()
    assert '<a href="01_good.html">Does 01_good work?</a>' in page
    assert "run at preset smoke" in page
    assert "failed: code cell 3: ZeroDivisionError: division by zero" in page
    assert "did the kernel die?" in page


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_every_child(tmp_path, sign):
    began = tmp_path / "began"
    sleep = f"open({str(began)!r}, 'w').close()\nimport time\ntime.sleep(600)\n"
    write_lesson(tmp_path, "01_long", f"# %%\n{sleep}")
    # Shells start background jobs deaf to SIGINT, and children inherit that.
    hear = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"import sys; from sbtutor import course; {hear}; sys.exit(course.main())"
    command = [sys.executable, "-c", code, "run", "--notebooks", str(tmp_path)]
    command += ["--out", str(tmp_path / "out")]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, cwd=ROOT, **quiet) as child:
        try:
            while not began.exists() and child.poll() is None:
                time.sleep(0.05)
            family = psutil.Process(child.pid).children(recursive=True)
            assert len(family) >= 2  # papermill and the kernel
            child.send_signal(sign)
            assert child.wait(timeout=30) == 128 + sign
        finally:
            course.stop([child.pid])
    assert psutil.wait_procs(family, timeout=10)[1] == []


def test_build_twice_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(lessons, "add_pictures", lambda nb: True)
    quiet = GOOD[GOOD.index("# %%\nimport plotly") :]  # without this machine's paths
    write_source(tmp_path, "01_good", quiet)
    command = ["build", "--preset", "smoke", "--notebooks", str(tmp_path)]
    built = []
    for _ in range(2):
        assert course.main(command) == 0
        side = tmp_path / "twins" / "01_good.json.gz"
        built.append([p.read_bytes() for p in (tmp_path / "01_good.ipynb", side)])
    assert built[0] == built[1]
    nb = lessons.read(tmp_path / "01_good.ipynb")
    assert [cell.execution_count for cell in lessons.code(nb)] == [1, 2, 3, 4, 5]
    assert not any("injected-parameters" in lessons.tags(cell) for cell in nb.cells)


def test_build_leaves_the_old_notebook_of_a_lesson_that_fails(tmp_path):
    write_source(tmp_path, "01_bad", "# %%\n1 / 0\n")
    (tmp_path / "01_bad.ipynb").write_text("old")
    assert course.main(["build", "--notebooks", str(tmp_path)]) == 1
    assert (tmp_path / "01_bad.ipynb").read_text() == "old"


def test_pictures_are_pngs_beside_the_figures(chromium):
    spec = {"data": [{"type": "scatter", "y": [1, 2]}], "layout": {"height": 300}}
    output = nbformat.v4.new_output("display_data", {lessons.PLOTLY: spec})
    cell = nbformat.v4.new_code_cell("fig", outputs=[output])
    assert lessons.add_pictures(nbformat.v4.new_notebook(cells=[cell]))
    assert cell.outputs[0].data["image/png"].startswith("iVBORw0KGgo")
    assert cell.outputs[0].data[lessons.PLOTLY] == spec


def test_an_inserted_cell_leaves_the_other_ids_alone(tmp_path):
    parts = ["# %%\na = 1\n", "# %%\nb = 2\n", "# %%\na = 1\n"]
    before = lessons.from_source(write_source(tmp_path, "01_x", "\n".join(parts)))
    parts.insert(1, "# %%\nnew = 3\n")
    after = lessons.from_source(write_source(tmp_path, "01_x", "\n".join(parts)))
    ids = [cell.id for cell in after.cells]
    assert len(set(ids)) == len(ids)
    assert [i for i in ids if "new" not in i] == [cell.id for cell in before.cells]


def test_find_names_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"no lessons .* run this from the repository"):
        lessons.find(tmp_path)
    for stem in ("00_start", "01_deep_ensembles", "07_tradeoff"):
        (tmp_path / f"{stem}.ipynb").touch()
    assert [p.stem for p in lessons.find(tmp_path, ("07", "01_deep"))] == [
        "01_deep_ensembles",
        "07_tradeoff",
    ]
    with pytest.raises(ValueError, match="'tradeof': did you mean '07_tradeoff'"):
        lessons.find(tmp_path, ("tradeof",))


def test_pages_stand_after_the_lessons(tmp_path):
    for stem in ("teacher", "paper_vs_ours", "01_deep_ensembles"):
        (tmp_path / f"{stem}.ipynb").touch()
    stems = ["01_deep_ensembles", "paper_vs_ours"]
    assert [p.stem for p in lessons.find(tmp_path)] == stems
    assert [p.stem for p in lessons.find(tmp_path, ("paper",))] == stems[1:]
    places = [lessons.place(stem) for stem in stems]
    assert places == ["Lesson 01", "Beside the lessons"]


@pytest.mark.parametrize(
    ("argv", "match"),
    [
        (["run", "--preset", "clas"], "unknown preset 'clas': did you mean 'class'"),
        (["run", "99"], "no lesson '99'"),
        (["book", "--notebooks", "nowhere"], "no lessons .* in nowhere"),
    ],
)
def test_bad_requests_end_with_one_line(tmp_path, capsys, monkeypatch, argv, match):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    write_lesson(tmp_path / "notebooks", "01_x", "")
    assert course.main(argv) == 2
    said = capsys.readouterr().err
    assert re.search(match, said)
    assert said.count("\n") == 1


def test_a_lesson_must_take_a_preset(tmp_path):
    lessons.write(notebook("# Why?"), tmp_path / "01_x.ipynb")
    with pytest.raises(ValueError, match=r"01_x.ipynb takes no preset: write `preset"):
        course.check_parameters(tmp_path / "01_x.ipynb")


def test_facts_of_a_lesson():
    nb = notebook(
        "# Why so?\n\n**Minutes:** read 10, do 5, compute 1.5 (2 cores)", "# B"
    )
    assert lessons.question(nb) == "Why so?"
    assert lessons.minutes(nb) == "read 10, do 5, compute 1.5 (2 cores)"
    assert lessons.compute_minutes(nb) == 1.5
    assert lessons.compute_minutes(notebook("# Why?")) == 0
    assert lessons.parameters(nb) == []


def test_own_kernel_comes_before_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", f"mine{os.pathsep}yours")
    env = lessons.own_kernel(tmp_path)
    assert env["JUPYTER_PATH"].split(os.pathsep) == [str(tmp_path), "mine", "yours"]


def test_a_kernel_has_sockets_where_the_system_and_the_path_allow(monkeypatch):
    where = Path("/tmp")
    monkeypatch.setattr(sys, "platform", "linux")
    found = lessons.sockets(where, "k")
    assert found["transport"] == "ipc"
    assert found["connection_file"] == str(where.resolve() / "k.json")
    assert lessons.sockets(where / ("x" * 80)) == {}
    monkeypatch.setattr(sys, "platform", "win32")
    assert lessons.sockets(where) == {}
