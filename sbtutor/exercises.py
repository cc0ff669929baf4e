"""The exercises in a lesson's source, and the versions made of them.

An exercise is a code cell tagged `exercise`, below a heading such as

    **2. A vote** (medium, 10 minutes). Let each member vote ...

The cell holds the solution, marked line by line, and ends with its check:

    def my_vote(logits):
        # solution
        return logits.argmax(-1).mode(dim=0).values
        # end

    right = check.vote(my_vote)

or `my_share = 0.59  # solution`. Students see dots there, and find the solution folded
in the markdown cell below, in place of the line `<!-- solution -->`. Cells tagged
`teacher` are in the teacher's version only.
"""

import re
from html import escape
from textwrap import dedent
from typing import NamedTuple

from nbformat import NotebookNode

VERSIONS = ("student", "solution", "teacher")
HEADING = re.compile(
    r"^\*\*(?P<number>\d+)\. (?P<title>[^*]+)\*\* "
    r"\((?P<level>easy|medium|hard), (?P<minutes>\d+) minutes\)",
    re.M,
)
BLOCK = re.compile(r"^( *)# solution\n(.*?)^ *# end\n", re.M | re.S)
LINE = re.compile(r"^( *\w+) = (.+?)  # solution$", re.M)
PLACE = "<!-- solution -->"
FOLDED = "<details><summary>Solution</summary><pre>{}</pre></details>"


class Exercise(NamedTuple):
    """One exercise: the name of its check, its heading, and its cell both ways."""

    check: str
    number: int
    title: str
    level: str
    minutes: int
    stub: str
    solved: str


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def stub(code: str) -> str:
    """The cell with dots where its solution is."""
    return LINE.sub(r"\1 = ...", BLOCK.sub(r"\1...\n", code + "\n").rstrip("\n"))


def solved(code: str) -> str:
    """The cell with its solution, without the marks."""
    whole = BLOCK.sub(r"\2", code + "\n").rstrip("\n")
    return LINE.sub(r"\1 = \2", whole)


def solution(code: str) -> str:
    """The solution's lines alone."""
    blocks = [dedent(body).rstrip("\n") for _, body in BLOCK.findall(code + "\n")]
    lines = [f"{name.strip()} = {value}" for name, value in LINE.findall(code)]
    return "\n".join([*blocks, *lines])


def of(nb: NotebookNode) -> list[Exercise]:
    """The exercises of a source, in order.

    Raises:
        ValueError: a cell tagged `exercise` without marks, check or heading; two
            headings with one number.
    """
    found, heading = [], None
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            heading = next(iter(list(HEADING.finditer(cell.source))[::-1]), heading)
        elif "exercise" in _tags(cell):
            check = re.findall(r"\bcheck\.(\w+)\(", cell.source)
            if heading is None or len(check) != 1 or not solution(cell.source):
                first = cell.source.partition("\n")[0]
                raise ValueError(
                    f"the exercise {first!r} needs a heading of its own, as in "
                    "'**1. A vote** (easy, 5 minutes).', marks as in '# solution' and "
                    "'# end', and one call as in 'check.vote(my_vote)'"
                )
            told, heading = heading, None
            title, level = told["title"], told["level"]
            number, minutes = int(told["number"]), int(told["minutes"])
            both = stub(cell.source), solved(cell.source)
            found.append(Exercise(check[0], number, title, level, minutes, *both))
    return found


def of_version(nb: NotebookNode, version: str) -> NotebookNode:
    """The notebook, in place, as students, those who solve, or teachers see it.

    Raises:
        ValueError: no such version; an exercise whose solution has no place below it.
    """
    if version not in VERSIONS:
        raise ValueError(f"no version {version!r}: there are {', '.join(VERSIONS)}")
    if version != "teacher":
        nb.cells = [cell for cell in nb.cells if "teacher" not in _tags(cell)]
    wanted = None
    for cell in nb.cells:
        if "exercise" in _tags(cell):
            _no_place(wanted)
            wanted = solution(cell.source)
            cell.source = (stub if version == "student" else solved)(cell.source)
        elif wanted is not None and PLACE in cell.source:
            folded = FOLDED.format(escape(wanted))
            shown = folded if version == "student" else "(The solution stands above.)"
            cell.source, wanted = cell.source.replace(PLACE, shown), None
    _no_place(wanted)
    return nb


def _no_place(wanted: str | None) -> None:
    if wanted is not None:
        raise ValueError(
            f"the solution {wanted!r} has no place: write {PLACE} on a line of the "
            "markdown below its exercise"
        )
