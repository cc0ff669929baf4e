"""Tables for readers: what `papers.table` found, in words."""

from collections.abc import Sequence

import pandas as pd

from sbtutor.papers import REDUCED, Settings


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
        `paper`, `ours, reduced` (where there is any), `ours` and `known from`; with
        `across` one column for each of its values, as "NLL, paper", unless all in a
        row are alike.
    """
    rows, index = found.to_dict("records"), list(index)
    words = {
        "paper": [_number(row) for row in rows],
        REDUCED: [
            "" if row["reduced"] is None else str(row["reduced"]) for row in rows
        ],
        "ours": [_ours(row) for row in rows],
        "known from": [row["source"] for row in rows],
    }
    if not any(words[REDUCED]):
        del words[REDUCED]
    if across is None:
        return found[index].assign(**words).set_index(index)
    order = found.set_index(index).index.unique()
    parts = []
    for who, column in words.items():
        wide = found.assign(words=column).pivot(
            index=index, columns=across, values="words"
        )
        wide = wide.loc[order, found[across].unique()]
        if wide.nunique(axis=1).max() <= 1:
            parts.append(wide.bfill(axis=1).iloc[:, 0].rename(who))
        else:
            parts.append(wide.add_suffix(f", {who}"))
    return pd.concat(parts, axis=1).fillna("")


def _number(row: Settings) -> str:
    error = f" ± {row['error']:g}" if row["error"] >= 0 else ""
    return f"{row['value']:.8g}{error}{' %' if row['unit'] == '%' else ''}"


def _ours(row: Settings) -> str:
    """Our value, or what it would cost."""
    if row["statistic"] in ("counted", "bound"):
        least = "at most " if row["statistic"] == "bound" else ""
        digits = 8 if row["ours"].mean > 1e4 else 4
        return f"{least}{row['ours'].mean:.{digits}g}"
    if row["ours"] is not None:
        return str(row["ours"])
    if not row["sweep"]:
        return "not run yet; no sweep has it"
    share = row["share"] if row["share"] > 0 else 0
    times = {0: "", 1: "as "}.get(share, f"{share:.2g} of ")
    return f"not run yet: {spoken(row['hours'])}, {times}{row['sweep']}"


def spoken(hours: float) -> str:
    """GPU hours with two digits, as "about 1,200 GPU hours"."""
    if not hours > 0:
        return "cost unknown"
    rounded = float(f"{hours:.2g}")
    told = f"{rounded:,.0f}" if hours >= 10 else f"{rounded:g}"
    return f"about {told} GPU hours"
