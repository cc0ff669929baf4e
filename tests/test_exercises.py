"""One source makes the versions for students, for those who solve, and for teachers."""

import nbformat
import pytest

from sbtutor import exercises, lessons

FUNCTION = """def my_vote(logits):
    \"\"\"Votes.\"\"\"
    # solution
    votes = logits.argmax(-1)
    return votes.mode(dim=0).values  # a < b
    # end


check.vote(my_vote)"""
LINES = """my_share = 0.59  # solution
my_time = (1, 2)  # solution

check.union_share(my_share, my_time)"""
SOURCE = f"""# %% [markdown]
# # Why?
#
# **1. A vote** (medium, 10 minutes). Let each member vote.

# %% tags=["exercise"]
{FUNCTION}

# %% [markdown]
# <details><summary>Hint 1</summary>Look.</details>
#
# <!-- solution -->
#
# **2. A share** (easy, 5 minutes). How many?

# %% tags=["exercise"]
{LINES}

# %% [markdown]
# <!-- solution -->

# %% [markdown] tags=["teacher"]
# For the teacher: wait.
"""


def build(tmp_path, version="student", text=SOURCE):
    source = tmp_path / "01_x.py"
    source.write_text(text)
    return lessons.from_source(source, version)


def test_students_get_dots_and_a_folded_solution(tmp_path):
    _, vote, below, share, last = build(tmp_path).cells
    assert vote.source == (
        'def my_vote(logits):\n    """Votes."""\n    ...\n\n\ncheck.vote(my_vote)'
    )
    assert share.source == (
        "my_share = ...\nmy_time = ...\n\ncheck.union_share(my_share, my_time)"
    )
    assert "Hint 1" in below.source
    assert (
        "<summary>Solution</summary><pre>votes = logits.argmax(-1)\n"
        "return votes.mode(dim=0).values  # a &lt; b</pre>" in below.source
    )
    assert "<pre>my_share = 0.59\nmy_time = (1, 2)</pre>" in last.source


@pytest.mark.parametrize("version", ["solution", "teacher"])
def test_others_get_the_solution_in_the_cell(tmp_path, version):
    _, vote, below, share, *_ = build(tmp_path, version).cells
    plain = FUNCTION.replace("    # solution\n", "").replace("    # end\n", "")
    assert vote.source == plain
    assert share.source == LINES.replace("  # solution", "")
    assert "<pre>" not in below.source


def test_only_teachers_see_their_cells(tmp_path):
    told = {
        version: "For the teacher" in lessons.prose(build(tmp_path, version))
        for version in exercises.VERSIONS
    }
    assert told == {"student": False, "solution": False, "teacher": True}


def test_exercises_are_found_with_heading_and_check(tmp_path):
    import jupytext

    build(tmp_path)
    one, two = exercises.of(jupytext.read(tmp_path / "01_x.py", fmt="py:percent"))
    assert one[:5] == ("vote", 1, "A vote", "medium", 10)
    assert two[:5] == ("union_share", 2, "A share", "easy", 5)
    assert one.stub.count("...") == 1
    assert "mode" in one.solved


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("**2. A share** (easy", "**2. A share** (trivial"),
        ("check.union_share", "print"),
        (LINES, "my_share = 1\ncheck.union_share(my_share)"),
    ],
)
def test_an_exercise_without_its_parts_is_refused(tmp_path, old, new):
    with pytest.raises(ValueError, match=r"the exercise 'my_share = .*' needs a head"):
        exercises.of(_raw(tmp_path, SOURCE.replace(old, new)))


def _raw(tmp_path, text):
    import jupytext

    (tmp_path / "raw.py").write_text(text)
    return jupytext.read(tmp_path / "raw.py", fmt="py:percent")


@pytest.mark.parametrize("at", [0, 1])
def test_a_solution_needs_its_place(tmp_path, at):
    parts = SOURCE.split("# <!-- solution -->")
    parts[at : at + 2] = [parts[at] + "# nothing" + parts[at + 1]]
    with pytest.raises(ValueError, match="has no place: write <!-- solution -->"):
        build(tmp_path, text="# <!-- solution -->".join(parts))


def test_an_unknown_version_is_refused():
    with pytest.raises(ValueError, match="no version 'pupil': there are student, sol"):
        exercises.of_version(nbformat.v4.new_notebook(), "pupil")
