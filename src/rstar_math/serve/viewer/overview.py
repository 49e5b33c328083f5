"""The runs as a whole: figures by strategy, options that differ, rounds of an evolution."""

import json
from collections.abc import Sequence
from html import escape

from rstar_math.evaluation.metrics import wilson
from rstar_math.foreign import plain
from rstar_math.serve.viewer.columns import Column, names, state
from rstar_math.serve.viewer.rounds import read_rounds, rounds_files, rounds_html
from rstar_math.serve.viewer.sources import Source
from rstar_math.serve.viewer.steps import bar, short
from rstar_math.types import Cost

_MOST_OPTIONS = 60


def overview_html(sources: Sequence[Source], columns: Sequence[Column], total: int) -> str:
    """The first thing that is seen of runs."""
    parts = ['<h2 tabindex="-1">Overview</h2>', _strategies(columns, total)]
    if len(sources) > 1:
        parts.append(_differences(sources))
    reports = rounds_files([source.path for source in sources])
    parts += [rounds_html(rounds) for path in reports if (rounds := read_rounds(path))]
    return "".join(parts)


def _strategies(columns: Sequence[Column], total: int) -> str:
    """A row for each strategy of each run."""
    if not columns:
        return "<p>Nothing is finished yet.</p>"
    rows = "".join(_strategy(column, total) for column in columns)
    heads = "".join(
        f'<th class="number"{title}>{name}</th>'
        for name, title in (
            ("done", ""),
            ("right", ' title="of those that have a reference answer, with a 95 % interval"'),
            ("no answer", ""),
            ("tokens", ' title="sampled for a problem, mean"'),
            ("seconds", ' title="for a problem, mean"'),
            ("programs failed", ' title="of those that were run"'),
        )
    )
    return (
        '<div class="scroll"><table><thead><tr><th>strategy</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _strategy(column: Column, total: int) -> str:
    """Its figures."""
    results = list(column.results.values())
    judged = [r for r in results if r.verdict is not None]
    right = sum(state(r) == "right" for r in judged)
    cost = Cost.total(r.cost for r in results)
    n = max(len(results), 1)
    share = "–"
    if judged:
        low, high = wilson(right, len(judged))
        share = (
            f"{bar(right / len(judged))} {right}/{len(judged)} "
            f'<span class="dim">{100 * low:.0f}–{100 * high:.0f} %</span>'
        )
    failed = f"{cost.code_failures / cost.code_runs:.0%}" if cost.code_runs else "–"
    cells = (
        f"{len(results)}/{total}",
        share,
        str(sum(state(r) == "none" for r in results)),
        f"{cost.sampled_tokens / n:.0f}",
        f"{cost.seconds / n:.1f}",
        failed,
    )
    figures = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(plain(column.label))}</th>{figures}</tr>'


def _differences(sources: Sequence[Source]) -> str:
    """Options that are not the same in all runs."""
    held = [source.conditions() for source in sources]
    keys = sorted({key for one in held for key in one})
    rows = []
    for key in keys:
        values = [json.dumps(one.get(key), ensure_ascii=False) for one in held]
        if len(set(values)) > 1:
            cells = "".join(f"<td>{short(value, 80)}</td>" for value in values)
            rows.append(f'<tr><th scope="row">{escape(plain(key))}</th>{cells}</tr>')
    if not rows:
        return "<p>The runs were made with the same options.</p>"
    heads = "".join(f"<th>{escape(plain(name))}</th>" for name in names(sources))
    shown = "".join(rows[:_MOST_OPTIONS])
    return (
        f'<h3>Options in which the runs differ</h3><div class="scroll"><table><thead><tr><th>option'
        f"</th>{heads}</tr></thead><tbody>{shown}</tbody></table></div>"
    )
