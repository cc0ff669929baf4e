"""What holds for the exercises of all lessons, cell by cell.

The stub is refused, the solution passes, and at least two typical mistakes have a
message of their own. Right answers and mistakes are listed in the checks' test files.
"""

import sys
from collections import Counter
from importlib import import_module
from pathlib import Path

import jupytext
import pytest
import torch
from answers import arguments, said_to

from sbtutor import check, exercises, feedback, lessons

HERE = Path(__file__).parent
SOURCES = sorted((HERE.parent / "notebooks" / "source").glob("[0-9][0-9]_*.py"))
NOTEBOOKS = {path.stem[:2]: jupytext.read(path, fmt="py:percent") for path in SOURCES}
EXERCISES = {lesson: exercises.of(nb) for lesson, nb in NOTEBOOKS.items()}
CELLS = [
    pytest.param(lesson, one, id=f"{lesson}-{one.check}")
    for lesson, found in EXERCISES.items()
    for one in found
]
BELOW = ("Hint 1: a nudge", "Hint 2: an outline", "Hint 3: almost there")

sys.path.append(str(HERE))
TESTS = [
    import_module(path.stem)
    for path in sorted(HERE.glob("test_check_*.py"))
    if path != Path(__file__)
]
SOLUTIONS = [pair for tests in TESTS for pair in tests.SOLUTIONS]
MISTAKES = [mistake for tests in TESTS for mistake in tests.MISTAKES]
CHECKS = [one for tests in TESTS for one in tests.EXERCISES]


def said_by(cell: str, capsys) -> str:
    """What the check at the end of a cell prints; the cell is run by itself."""
    exec(cell, {"check": check, "torch": torch})
    return capsys.readouterr().out


@pytest.mark.parametrize(("lesson", "exercise"), CELLS)
def test_stub_is_refused_and_told_to_replace_the_dots(lesson, exercise, capsys):
    assert said_by(exercise.stub, capsys) in {
        f"Not yet: {told}\n" for told in (feedback.NOTHING, feedback.DOTS)
    }


@pytest.mark.parametrize(("lesson", "exercise"), CELLS)
def test_solution_passes(lesson, exercise, capsys):
    assert said_by(exercise.solved, capsys) == "Right.\n"


@pytest.mark.parametrize(("lesson", "exercise"), CELLS)
def test_check_knows_its_lesson_and_two_typical_mistakes(lesson, exercise):
    assert feedback.LESSONS[exercise.check] == lesson
    messages = {told for one, _, told in MISTAKES if one.__name__ == exercise.check}
    assert len(messages - {told for told in messages if "the dots" in told}) >= 2


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_right_answer_passes(exercise, answer, capsys):
    assert exercise(*arguments(answer))
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize(("exercise", "mistake", "message"), MISTAKES)
def test_mistake_gets_its_message(exercise, mistake, message, capsys):
    assert message in said_to(exercise, mistake, capsys)


@pytest.mark.parametrize(("lesson", "exercise"), CELLS)
def test_check_can_be_called_as_cells_do(lesson, exercise):
    assert exercise.check in check.__all__
    assert f"check.{exercise.check}(" in exercise.stub


def test_a_value_in_place_of_a_function_is_told(capsys, unchecked):
    """As in `check.vote(my_vote(logits))`."""
    assert not check.vote(torch.ones(2))
    said = "hand over the function itself, its name without brackets; this is a Tensor."
    assert capsys.readouterr().out == f"Not yet: {said}\n"


@pytest.mark.parametrize("lesson", EXERCISES)
def test_lesson_has_three_to_six_exercises_numbered_from_one(lesson):
    found = EXERCISES[lesson]
    assert 3 <= len(found) <= 6
    assert [one.number for one in found] == list(range(1, len(found) + 1))


@pytest.mark.parametrize("lesson", EXERCISES)
def test_each_exercise_has_three_folded_hints_and_a_place_for_its_solution(lesson):
    """In the markdown between one exercise and the next, in this order."""
    nb, exercise = NOTEBOOKS[lesson], None
    below = {one.check: "" for one in EXERCISES[lesson]}
    names = iter(below)
    for cell in nb.cells:
        if "exercise" in lessons.tags(cell):
            exercise = next(names)
        elif exercise and cell.cell_type == "markdown":
            below[exercise] += cell.source
    for text in below.values():
        wanted = [f"<details><summary>{hint}</summary>" for hint in BELOW]
        places = [text.find(part) for part in [*wanted, exercises.PLACE]]
        assert -1 not in places
        assert places == sorted(places)


@pytest.mark.parametrize("lesson", EXERCISES)
def test_minutes_to_do_are_those_of_the_exercises_and_one_to_guess(lesson):
    exercise = sum(one.minutes for one in EXERCISES[lesson])
    assert f"do {exercise + 1}," in lessons.minutes(NOTEBOOKS[lesson])


@pytest.mark.parametrize("lesson", EXERCISES)
def test_no_exercise_is_without_a_check(lesson):
    """Each heading of an exercise belongs to a cell, so none is left open."""
    headings = exercises.HEADING.findall(lessons.prose(NOTEBOOKS[lesson]))
    assert len(headings) == len(EXERCISES[lesson])


def test_names_of_checks_are_unique_and_each_is_used_once():
    used = Counter(one.check for found in EXERCISES.values() for one in found)
    assert set(used.values()) == {1}
    assert sorted(used) == sorted(check.__all__) == sorted(feedback.LESSONS)
    assert sorted(used) == sorted(one.__name__ for one in CHECKS)
    assert {one.__name__ for one, _ in SOLUTIONS} == set(used)
