# %% [markdown]
# # How far has my class come?
#
# For teachers. Each learner's progress lies in one file, `notebooks/progress.json`, on the
# learner's own computer. Ask for these files, name each after its learner (`ada.json`,
# `bob.json`), and put them in one folder. Nothing else is needed: no server, no account.
#
# Your own notebooks are made by `make versions`: `runs/versions/teacher` has the lessons
# with solutions and notes for teachers, `runs/versions/solution` those with solutions,
# `runs/versions/student` those to hand out.

# %% tags=["parameters"]
folder: str = ""  # the folder with the files; "" shows a made-up class of three

# %%
from pathlib import Path

import pandas as pd

from sbtutor import check, journal, plots

pd.set_option("display.max_colwidth", None)

# %% [markdown]
# Without a folder we make up three learners. What follows is then **an example, not data**.


# %%
def made_up():
    """A folder with the files of three learners who do not exist."""
    import os
    import tempfile

    place = Path(tempfile.mkdtemp())
    given = os.environ.get("SBTUTOR_JOURNAL")
    for name, tries, guess in (("ada", 1, 1.5), ("bob", 2, 5.0), ("cem", 0, 3.0)):
        os.environ["SBTUTOR_JOURNAL"] = str(place / f"{name}.json")
        for _ in range(tries):
            journal.tried("01", "vote", "this is one member's answer")
        journal.tried("01", "ensemble_probs", None if tries else "the wrong axis")
        if name == "ada":
            journal.tried("01", "vote", None)
        journal.guess("00", "gain of three members, in points", guess)
    if given is None:
        del os.environ["SBTUTOR_JOURNAL"]
    else:
        os.environ["SBTUTOR_JOURNAL"] = given
    return place


# %%
place = Path(folder) if folder else made_up()
exercises, guesses = journal.collect(place)
learners = sorted(set(exercises["learner"]) | set(guesses["learner"]))
print(f"{len(learners)} learners", "" if folder else "(made up)")

# %% [markdown]
# ## Who has passed what?
#
# One row an exercise, in the order of the course; a number is how many tries it took, a
# number in brackets is tries so far. Exercises that nobody has tried are left out.


# %%
def told(row):
    """Tries, in brackets if none of them passed."""
    return f"{row.tries}" if isinstance(row.passed, str) else f"({row.tries})"


exercises["told"] = [told(row) for row in exercises.itertuples()]
board = exercises.pivot(index="exercise", columns="learner", values="told").fillna("")
order = [name for name in check.LESSONS if name in board.index]
board = board.loc[sorted(order, key=check.LESSONS.get)]
board.insert(0, "lesson", [check.LESSONS[name] for name in board.index])
board

# %% [markdown]
# ## Where is the class stuck?
#
# For each exercise: how many tried and passed, and what was said last to those who have not.

# %%
rows = []
for name, part in exercises.groupby("exercise", sort=False):
    stuck = part[part["passed"].isna()]
    said = stuck["said"].dropna().mode()
    rows.append(
        {
            "exercise": name,
            "tried": len(part),
            "passed": int(part["passed"].notna().sum()),
            "most often said last": said.iloc[0] if len(said) else "",
        }
    )
stand = pd.DataFrame(rows).sort_values("passed").set_index("exercise")
stand

# %% [markdown]
# An exercise that fewer than half have passed is a good place to begin the next hour. The
# check's last message tells what to talk about.

# %%
lessons_passed = exercises[exercises["passed"].notna()].groupby("lesson").size()
total = pd.Series(check.LESSONS).value_counts() * len(learners)
share = (100 * lessons_passed / total).fillna(0).sort_index()
plots.lines(
    list(share.index),
    {"passed": list(share)},
    "Exercises passed, by lesson" + ("" if folder else " (a made-up class)"),
    "lesson",
    "% of all learners' exercises",
)

# %% [markdown]
# ## What did they expect?
#
# Guesses made before the measurement, beside what each learner then measured (each with
# an own seed and preset, perhaps). Wrong guesses are what a lesson is for: ask who guessed
# high, and why.

# %%
guesses.sort_values(["lesson", "question"]).set_index(["lesson", "question"])
