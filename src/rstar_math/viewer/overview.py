"""The overview of runs: accuracy by strategy, differing options, rounds of an evolution."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rstar_math.evaluation.metrics import wilson
from rstar_math.text import sanitize
from rstar_math.types import Cost
from rstar_math.viewer.sources import Column, Source, result_state, source_names
from rstar_math.viewer.steps import bar, shorten_html

REPORT_NAME = "report.json"
_SHARE = "share"
_MAX_DEPTH = 4
Round = Mapping[str, Any]


def rounds_files(runs: Iterable[Path]) -> list[Path]:
    """The existing evolution reports of the runs, without duplicates."""
    folders = (folder for run in runs for folder in run.absolute().parents[:2])
    return [
        path for path in dict.fromkeys(folder / REPORT_NAME for folder in folders) if path.is_file()
    ]


def file_version(path: Path) -> int:
    """A number that changes when the file changes; 0 if the file does not exist."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_rounds(path: Path) -> list[Round]:
    """The rounds of a report, `{"rounds": [{"number": 1, ...}, ...]}`, each as a flat mapping.

    Returns [] if the file does not exist or has another format. Of nested objects only those with
    a "share" are kept; the key is the path to the object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["rounds"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        return []
    return [dict(_flat(entry)) for entry in found]


def rounds_html(rounds: Sequence[Round]) -> str:
    """The rounds as a table, with a curve for every column of shares in [0, 1]."""
    keys = list(dict.fromkeys(key for entry in rounds for key in entry))
    heads = "".join(f"<th>{_label(key)}</th>" for key in keys)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_cell_text(entry.get(key))}</td>' for key in keys)}</tr>"
        for entry in rounds
    )
    curves = "".join(_curve(key, [entry.get(key) for entry in rounds]) for key in keys)
    return (
        f'<h3>Rounds</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}'
        f'</tbody></table></div><div class="curves">{curves}</div>'
    )


def _flat(entry: Round) -> Iterator[tuple[str, Any]]:
    """Yields a round's numbers and strings, its solved share, and all nested shares."""
    for key, value in entry.items():
        if isinstance(value, str | int | float):
            yield key, value
    searched, solved = entry.get("searched"), entry.get("solved")
    if isinstance(searched, int) and isinstance(solved, int) and 0 <= solved <= searched > 0:
        yield "solved of searched", solved / searched
    yield from _shares(entry, (), 0)


def _shares(
    value: Mapping[str, Any], path: tuple[str, ...], depth: int
) -> Iterator[tuple[str, Any]]:
    """Yields all nested shares with their paths."""
    share = value.get(_SHARE)
    if path and isinstance(share, float):
        yield " ".join(path), share
    for key, child in value.items():
        if isinstance(child, dict) and depth < _MAX_DEPTH:
            yield from _shares(child, (*path, key), depth + 1)


def _label(key: str) -> str:
    """A key as a label: underscores become spaces."""
    return escape(sanitize(key.replace("_", " ")))


def _cell_text(value: Any) -> str:
    """A value as the text of a table cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else shorten_html(str(value), 60)


def _curve(key: str, values: Sequence[Any]) -> str:
    """A curve of a column of shares in [0, 1]; "" for other columns."""
    known = [(at, v) for at, v in enumerate(values) if v is not None]
    if len(known) < 2 or not all(isinstance(v, float) and 0 <= v <= 1 for _, v in known):
        return ""
    step = 200 / (len(values) - 1)
    points = [(10 + step * at, 70 - 60 * value) for at, value in known]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    label = ", ".join(f"{value:.3g}" for _, value in known)
    first, last = known[0][1], known[-1][1]
    return (
        f'<figure><svg class="curve" viewBox="0 0 220 80" role="img" aria-label="{_label(key)}: '
        f'{label}"><path class="axis" d="M10 10V70H210"/><polyline points="{line}"/>{dots}</svg>'
        f"<figcaption>{_label(key)}, {first:.0%} to {last:.0%}</figcaption></figure>"
    )


_MAX_OPTIONS = 60


def overview_html(sources: Sequence[Source], columns: Sequence[Column], total: int) -> str:
    """The overview: accuracy by strategy, differing options, rounds."""
    parts = ['<h2 tabindex="-1">Overview</h2>', _strategy_table(columns, total)]
    if len(sources) > 1:
        parts.append(_options_table(sources))
    reports = rounds_files([source.path for source in sources])
    parts += [rounds_html(rounds) for path in reports if (rounds := read_rounds(path))]
    return "".join(parts)


def _strategy_table(columns: Sequence[Column], total: int) -> str:
    """A table with one row per strategy and run."""
    if not columns:
        return "<p>No problem is finished yet.</p>"
    rows = "".join(_strategy_row(column, total) for column in columns)
    heads = "".join(
        f'<th class="number"{title}>{name}</th>'
        for name, title in (
            ("done", ""),
            (
                "right",
                ' title="of problems with a reference answer, with a 95 % confidence interval"',
            ),
            ("no answer", ""),
            ("tokens", ' title="mean number of sampled tokens per problem"'),
            ("seconds", ' title="mean time per problem"'),
            ("programs failed", ' title="share of executed programs"'),
        )
    )
    return (
        '<div class="scroll"><table><thead><tr><th>strategy</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _strategy_row(column: Column, total: int) -> str:
    """The table row of one strategy."""
    results = list(column.results.values())
    judged = [r for r in results if r.verdict is not None]
    right = sum(result_state(r) == "right" for r in judged)
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
        str(sum(result_state(r) == "none" for r in results)),
        f"{cost.sampled_tokens / n:.0f}",
        f"{cost.seconds / n:.1f}",
        failed,
    )
    figures = "".join(f'<td class="number">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{escape(sanitize(column.label))}</th>{figures}</tr>'


def _options_table(sources: Sequence[Source]) -> str:
    """A table of the options that differ between the runs."""
    conditions = [source.conditions() for source in sources]
    keys = sorted({key for run in conditions for key in run})
    rows = []
    for key in keys:
        values = [json.dumps(run.get(key), ensure_ascii=False) for run in conditions]
        if len(set(values)) > 1:
            cells = "".join(f"<td>{shorten_html(value, 80)}</td>" for value in values)
            rows.append(f'<tr><th scope="row">{escape(sanitize(key))}</th>{cells}</tr>')
    if not rows:
        return "<p>All runs have the same options.</p>"
    heads = "".join(f"<th>{escape(sanitize(name))}</th>" for name in source_names(sources))
    shown = "".join(rows[:_MAX_OPTIONS])
    return (
        f'<h3>Options that differ</h3><div class="scroll"><table><thead><tr><th>option'
        f"</th>{heads}</tr></thead><tbody>{shown}</tbody></table></div>"
    )
