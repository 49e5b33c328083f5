"""Tables of `rstar curate`: kept and dropped data, pairs by depth, suspect references."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rstar_math.cli import display
from rstar_math.text import sanitize
from rstar_math.training.curation.records import Curated

_MAX_SUSPECTS = 20
"""Maximum number of suspect problems in the table; the folder's README lists all."""


def print_curated(curated: Curated, *, left_out: int) -> None:
    """Print the counts of kept and dropped data, pairs by depth, and suspect references."""
    display.out.print(_counts_table(curated, left_out))
    if curated.report.by_depth:
        display.out.print(_depths_table(curated.report.by_depth))
    if curated.suspects:
        display.out.print(_suspects_table(curated))


def _counts_table(curated: Curated, left_out: int) -> Table:
    table = _table("data", "outcome", number="count")
    for group, counts in curated.report.as_json().items():
        if group == "step_pairs_by_depth":
            continue
        name = group.replace("_", " ")
        for reason, count in counts.items():
            is_kept = reason == "kept"
            table.add_row(name, Text(reason, "green" if is_kept else ""), str(count))
            name = ""
    if left_out:
        table.add_row("trees", "dropped: other step format", str(left_out))
    return table


def _depths_table(by_depth: dict[int, int]) -> Table:
    table = _table("steps before a step pair", number="pairs")
    for depth in sorted(by_depth):
        table.add_row(str(depth), str(by_depth[depth]))
    return table


def _suspects_table(curated: Curated) -> Table:
    table = _table("suspect reference", "reference", "solutions' answer", number="programs")
    for suspect in curated.suspects[:_MAX_SUSPECTS]:
        table.add_row(
            Text(sanitize(suspect.problem)),
            Text(sanitize(str(suspect.reference))),
            Text(f"{sanitize(suspect.answer)} ({suspect.share:.0%})"),
            str(suspect.programs),
        )
    if len(curated.suspects) > _MAX_SUSPECTS:
        table.caption = f"and {len(curated.suspects) - _MAX_SUSPECTS} more, listed in the README"
    return table


def _table(*columns: str, number: str) -> Table:
    table = Table(header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        table.add_column(name)
    table.add_column(number, justify="right")
    return table
