"""The tables of `rstar curate`: counts kept and dropped, pairs by depth, suspect references."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rstar_math.cli import display
from rstar_math.text import sanitize
from rstar_math.training.curation.records import Curated

_SHOWN = 20
"""Most doubted problems that are listed; all are in the folder's README."""


def show_curated(found: Curated, *, left_out: int) -> None:
    """Print what was kept and dropped."""
    display.out.print(_counts(found, left_out))
    if found.report.by_depth:
        display.out.print(_depths(found.report.by_depth))
    if found.suspects:
        display.out.print(_suspects(found))


def _counts(found: Curated, left_out: int) -> Table:
    table = _table("what", "outcome", number="count")
    for group, counts in found.report.as_json().items():
        if group == "step_pairs_by_depth":
            continue
        head = group.replace("_", " ")
        for reason, count in counts.items():
            kept = reason == "kept"
            table.add_row(head, Text(reason, "green" if kept else ""), str(count))
            head = ""
    if left_out:
        table.add_row("trees", "of other step formats, left out", str(left_out))
    return table


def _depths(by_depth: dict[int, int]) -> Table:
    table = _table("steps before a step pair", number="pairs")
    for depth in sorted(by_depth):
        table.add_row(str(depth), str(by_depth[depth]))
    return table


def _suspects(found: Curated) -> Table:
    table = _table("probably mislabelled", "reference", "solutions say", number="programs")
    for one in found.suspects[:_SHOWN]:
        table.add_row(
            Text(sanitize(one.problem)),
            Text(sanitize(str(one.reference))),
            Text(f"{sanitize(one.answer)} ({one.share:.0%})"),
            str(one.programs),
        )
    if len(found.suspects) > _SHOWN:
        table.caption = f"and {len(found.suspects) - _SHOWN} more; all are in the README"
    return table


def _table(*columns: str, number: str) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name)
    table.add_column(number, justify="right")
    return table
