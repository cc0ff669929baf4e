"""`course versions` writes the lessons for students, with solutions, for teachers."""

from pathlib import Path

from sbtutor import check, course, exercises, lessons

FOLDER = Path(__file__).parents[1] / "notebooks"


def test_each_version_is_whole_and_stands_beside_the_results(tmp_path, capsys):
    where = ["--notebooks", str(FOLDER), "--out", str(tmp_path)]
    assert course.main(["versions", *where]) == 0
    assert capsys.readouterr().out.count(": written") == 3
    sources = {path.stem for path in (FOLDER / "source").glob("*.py")}
    for version in exercises.VERSIONS:
        written = {path.stem: path for path in (tmp_path / version).glob("*.ipynb")}
        assert sources - set(written) == (
            set() if version == "teacher" else {"teacher"}
        )
        assert (tmp_path / version / "results" / "sweep.csv").exists()
        assert (tmp_path / version / "sweeps" / "fig7-cifar10.yaml").exists()
        code = [
            cell.source
            for path in written.values()
            for cell in lessons.code(lessons.read(path))
            if "exercise" in lessons.tags(cell)
        ]
        assert len(code) >= len(check.__all__)
        assert not any("# solution" in cell for cell in code)
        assert all(("..." in cell) == (version == "student") for cell in code)


def test_one_lesson_can_be_asked_for(tmp_path):
    where = ["--notebooks", str(FOLDER), "--out", str(tmp_path)]
    assert course.main(["versions", "08", *where]) == 0
    names = [path.name for path in (tmp_path / "teacher").glob("*.ipynb")]
    assert names == ["08_theory.ipynb"]
