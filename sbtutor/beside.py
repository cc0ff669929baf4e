"""Tables for readers: what `papers.table` and `claims.table` found, in words."""

import itertools
import math
import re
from collections.abc import Sequence
from html import escape

import pandas as pd

from sbtutor.papers import REDUCED, Settings
from sbtutor.results import Interval

# JupyterLab moves words to the right, where numbers belong.
# With its own padding the widest table fits a page of the book.
STYLE = (
    "<style>.beside :is(td, th, caption) { text-align: left !important }"
    ".beside :is(td, th) { padding: 0.25em 0.4em !important }</style>"
)
ALIKE = ("sweep", "known from")  # told once where they are the same in all rows


def shown(
    found: pd.DataFrame,
    index: Sequence[str] = ("data", "method"),
    across: str | None = "quantity",
) -> pd.DataFrame:
    """Paper and ours side by side, indexed by some of the columns of `papers.table`.

    Args:
        found: rows of `papers.table`; `index` and `across` tell them apart.
        index: what names a row.
        across: what becomes columns, such as `quantity`; None: each row stays one.

    Returns:
        `paper`, `known from`, `ours`, `ours, reduced` (where there is any), `sweep`;
        with `across` one column for each of its values, as "NLL, paper", unless all in
        a row are alike. Marks such as [1] count the `notes`.
    """
    rows, index = found.to_dict("records"), list(index)
    marks = {note: f" [{i}]" for i, note in enumerate(notes(found), start=1)}
    words = {
        "paper": [_number(row) + marks.get(row["note"], "") for row in rows],
        "known from": [row["source"] for row in rows],
        "ours": [_ours(row) for row in rows],
        REDUCED: [_interval(row["reduced"], row["unit"]) for row in rows],
        "sweep": [_sweep(row) for row in rows],
    }
    if not any(words[REDUCED]):
        del words[REDUCED]
    if across is None:
        return found[index].assign(**words).set_index(index)
    order = found.set_index(index).index.unique()
    parts = []
    for who, column in words.items():
        wide = found.assign(words=column)
        wide = wide.pivot(index=index, columns=across, values="words")
        wide = wide.loc[order, found[across].unique()]
        if wide.nunique(axis=1).max() <= 1:
            parts.append(wide.bfill(axis=1).iloc[:, 0].rename(who))
        else:
            parts.append(wide.add_suffix(f", {who}"))
    return pd.concat(parts, axis=1).fillna("")


def notes(found: pd.DataFrame) -> list[str]:
    """What is to be known of single rows of `papers.table`, each note once."""
    told = found.loc[found["sweep"] != "", "note"]  # others tell theirs as `ours`
    return [note for note in told.unique() if note]


def html(frame: pd.DataFrame, below: Sequence[str] = ()) -> str:
    """A table of words: one row of headings, the first level of the index once.

    Args:
        frame: of words.
        below: notes, [1] and so on.
    """
    above = []
    for name in ALIKE:
        if name in frame and frame[name].nunique() == 1:
            above += [f"{name}: {told}"] if (told := frame[name].iloc[0]) else []
            frame = frame.drop(columns=name)
    caption = f"<caption>{escape('; '.join(above))}</caption>" if above else ""
    flat = frame.reset_index()
    head = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in flat)
    body = []
    for first, part in itertools.groupby(flat.to_numpy().tolist(), lambda row: row[0]):
        rows = list(part)
        span = f' rowspan="{len(rows)}"' if len(rows) > 1 else ""
        words = escape(str(first)).replace("/", "/<wbr>")
        name = f'<th scope="row"{span}>{words}</th>'
        for row in rows:
            cells = "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:])
            body.append(f"<tr>{name}{cells}</tr>")
            name = ""
    return (
        f'{STYLE}<table class="beside">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
        + "".join(f"<p>[{i}] {_cell(note)}</p>" for i, note in enumerate(below, 1))
    )


def _cell(value: object) -> str:
    """Without breaks between numbers and their units."""
    between = r"(?<=\d) (?=[±%G])|(?<=±) |(?<=GPU) |(?<=\bn) (?==)|(?<=\bn =) "
    return re.sub(between, "&nbsp;", escape(str(value)))


def _number(row: Settings) -> str:
    error = f" ± {row['error']}" if row["error"] else ""
    return f"{row['written']}{error}{' %' if row['unit'] == '%' else ''}"


def _ours(row: Settings) -> str:
    """Our value, or what it would cost, or why there is none."""
    if row["statistic"] in ("counted", "bound"):
        least = "at most " if row["statistic"] == "bound" else ""
        digits = 8 if row["ours"].mean > 1e4 else 4
        return f"{least}{row['ours'].mean:.{digits}g}"
    if row["ours"] is not None:
        return _interval(row["ours"], row["unit"])
    if not row["sweep"]:
        return f"not comparable: {row['note']}"
    return f"not run yet: {spoken(row['hours'])}"


def _interval(found: Interval | None, unit: str) -> str:
    """Two digits of the half width, and as many decimals of the mean."""
    if found is None:
        return ""
    told, half = str(found), found.high - found.mean
    if half > 0:
        digits = max(0, 1 - math.floor(math.log10(half)))
        told = f"{found.mean:.{digits}f} ± {half:.{digits}f} (n = {found.n})"
    return told.replace(" (", f" {unit} (") if unit else told


def _sweep(row: Settings) -> str:
    share = row["share"] if row["share"] > 0 else 0
    return {0: "", 1: "as "}.get(share, f"{share:.2g} of ") + row["sweep"]


def spoken(hours: float) -> str:
    """GPU hours with two digits, as "1,200 GPU hours"."""
    rounded = float(f"{hours:.2g}")
    told = f"{rounded:,.0f}" if hours >= 10 else f"{rounded:g}"
    return f"{told} GPU hours"
