"""A figure in words and as a table, for readers who do not see it."""

from html import escape
from typing import Any


def alt(spec: dict[str, Any]) -> str:
    """The figure's text alternative, `layout.meta.alt`; else its title."""
    layout = spec.get("layout", {})
    meta, title = layout.get("meta"), layout.get("title") or {}
    title = title.get("text", "") if isinstance(title, dict) else title
    return (isinstance(meta, dict) and meta.get("alt")) or str(title) or "figure"


def details(spec: dict[str, Any]) -> str:
    """The text alternative, folded, as HTML."""
    return (
        f"<details><summary>This figure in words</summary>{escape(alt(spec))}</details>"
    )
