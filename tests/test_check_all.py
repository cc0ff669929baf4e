"""What holds for the exercises of all lessons: stubs fail, solutions pass."""

import sys
from pathlib import Path

import pytest

from sbtutor import check

sys.path.append(str(Path(__file__).parent))

import test_check_batch
import test_check_hyper
import test_check_landscape
import test_check_transfer

TESTS = (
    test_check_batch,
    test_check_hyper,
    test_check_landscape,
    test_check_transfer,
)
SOLUTIONS = [pair for tests in TESTS for pair in tests.SOLUTIONS]
EXERCISES = [exercise for tests in TESTS for exercise in tests.EXERCISES]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_check_names_the_checks_of_all_lessons(exercise):
    assert exercise.__name__ in check.__all__


@pytest.mark.parametrize(("exercise", "solution"), SOLUTIONS)
def test_solution_passes(exercise, solution, capsys):
    assert exercise(solution)
    assert capsys.readouterr().out == "Right.\n"


@pytest.mark.parametrize("exercise", EXERCISES)
@pytest.mark.parametrize("nothing", [None, ...])
def test_stub_fails(exercise, nothing, capsys):
    assert not exercise(lambda *_: nothing)
    assert "returns nothing so far" in capsys.readouterr().out
