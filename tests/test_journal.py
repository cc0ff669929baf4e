"""Progress is kept in one file, survives trouble, and is collected by a teacher."""

import json
import threading
import time

import pytest

from sbtutor import feedback, files, journal


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Where this test's progress is kept."""
    path = tmp_path / "mine" / "progress.json"
    monkeypatch.setenv("SBTUTOR_JOURNAL", str(path))
    return path


def test_tries_are_counted_until_the_exercise_is_passed(kept):
    journal.tried("01", "vote", "count votes")
    journal.tried("01", "vote", "one vote each")
    assert journal.load(kept)["exercises"]["vote"] == {
        "lesson": "01",
        "tries": 2,
        "said": "one vote each",
    }
    journal.tried("01", "vote", None)
    passed = journal.load(kept)["exercises"]["vote"]
    assert (passed["tries"], len(passed["passed"]), "said" in passed) == (3, 10, False)
    journal.tried("01", "vote", "broken again")
    journal.tried("01", "vote", None)
    assert journal.load(kept)["exercises"]["vote"] == passed


def test_a_guess_can_change_until_the_answer_is_known(kept):
    journal.guess("07", "which fall", {"DER", "accuracy"})
    journal.guess("07", "which fall", {"DER"})
    assert journal.compare("07", "which fall", ("DER", 0.5)) == ["DER"]
    journal.guess("07", "which fall", {"I knew it"})
    entry = journal.load(kept)["guesses"]["07: which fall"]
    assert entry == {"guess": ["DER"], "measured": ["DER", 0.5]}
    assert journal.compare("07", "never asked", 1) is None


@pytest.mark.parametrize(
    ("value", "plain"),
    [(..., ""), ({"b": {3, 1}}, {"b": [1, 3]}), (1.5, 1.5), (True, True), (kept, None)],
)
def test_guesses_are_kept_as_json(kept, value, plain):
    journal.guess("00", "q", value)
    found = journal.load(kept)["guesses"]["00: q"]["guess"]
    assert found == plain if plain is not None else isinstance(found, str)


def test_off_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SBTUTOR_JOURNAL", "off")
    monkeypatch.chdir(tmp_path)
    journal.tried("01", "vote", None)
    journal.guess("01", "q", 1)
    assert journal.compare("01", "q", 2) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "holds no progress of the course"),
        ('{"exercises": {}, "guesses": 3}', "move it away to start anew"),
        ('{"exercises": {"vote": 3}, "guesses": {}}', "holds no progress"),
    ],
)
def test_a_broken_file_is_told_of_and_left_alone(kept, capsys, content, message):
    kept.parent.mkdir()
    kept.write_text(content)
    journal.tried("01", "vote", None)
    said = capsys.readouterr().out
    assert said.startswith("(your progress is not kept: ")
    assert message in said
    assert kept.read_text() == content
    with pytest.raises(files.BrokenFileError, match=message):
        journal.load(kept)


def test_two_notebooks_keep_their_progress_at_the_same_time(kept, monkeypatch):
    write = files.write_json

    def slow(path, value):
        time.sleep(0.02)  # long enough for the other one to read the old file
        write(path, value)

    monkeypatch.setattr(files, "write_json", slow)

    def learn(lesson):
        for number in range(4):
            journal.tried(lesson, f"{lesson}-{number}", None)

    notebooks = [threading.Thread(target=learn, args=(n,)) for n in ("01", "02")]
    for notebook in notebooks:
        notebook.start()
    for notebook in notebooks:
        notebook.join()
    assert len(journal.load(kept)["exercises"]) == 8


def test_without_locks_progress_is_kept_all_the_same(kept, monkeypatch):
    monkeypatch.setattr(journal, "fcntl", None)
    journal.tried("01", "vote", None)
    assert journal.load(kept)["exercises"]["vote"]["tries"] == 1


def test_a_full_disk_stops_no_lesson(kept, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "disk full")

    monkeypatch.setattr(files, "write_bytes", full)
    journal.guess("01", "q", 1)
    assert "disk full" in capsys.readouterr().out


def test_a_check_prints_one_line_and_keeps_the_try(kept, capsys):
    @feedback.exercise("42")
    def answer_is_two(answer: object) -> str | None:
        """Lesson 42: two."""
        return None if 2 / answer == 1 else "it is two."

    assert feedback.LESSONS.pop("answer_is_two") == "42"
    assert not answer_is_two(3)
    assert answer_is_two(2)
    assert capsys.readouterr().out == "Not yet: it is two.\nRight.\n"
    assert journal.load(kept)["exercises"]["answer_is_two"]["tries"] == 2
    with pytest.raises(ZeroDivisionError):
        answer_is_two(0)


def test_what_the_learners_code_raises_is_a_try(kept):
    @feedback.exercise("42")
    def raising(answer: object) -> str | None:
        """Lesson 42: calls the answer."""
        return answer()

    feedback.LESSONS.pop("raising")
    with pytest.raises(ZeroDivisionError):
        raising(lambda: 1 / 0)
    entry = journal.load(kept)["exercises"]["raising"]
    assert entry == {"lesson": "42", "tries": 1, "said": "it raises ZeroDivisionError"}


def test_a_folder_of_files_is_one_table(tmp_path):
    for name, passed in (("ada", "2026-01-02"), ("bob", None)):
        entry = {"lesson": "01", "tries": 2, "learner": "not the file's"}
        entry |= {"passed": passed} if passed else {}
        guesses = {"01: why: so": {"guess": [1], "measured": 2}}
        text = json.dumps({"exercises": {"vote": entry}, "guesses": guesses})
        (tmp_path / f"{name}.json").write_text(text)
    exercises, guesses = journal.collect(tmp_path)
    assert exercises["learner"].tolist() == ["ada", "bob"]
    assert exercises["passed"].isna().tolist() == [False, True]
    assert guesses["question"].tolist() == ["why: so"] * 2
    assert guesses["guess"].tolist() == [[1], [1]]


def test_collect_names_an_empty_folder_and_a_broken_file(tmp_path):
    with pytest.raises(ValueError, match=r"no progress in .*: put each learner's"):
        journal.collect(tmp_path)
    (tmp_path / "eve.json").write_text("{")
    with pytest.raises(ValueError, match=r"eve.json is not valid JSON"):
        journal.collect(tmp_path)
