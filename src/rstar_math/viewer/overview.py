"""The overview of runs: accuracy by strategy, differing options, rounds of an evolution."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rstar_math.evaluation.metrics import wilson
from rstar_math.text import sanitize
from rstar_math.types import Cost
from rstar_math.viewer.sources import Column, Source, names, state
from rstar_math.viewer.steps import bar, short

NAME = "report.json"
_SHARE = "share"
_DEEPEST = 4
Round = Mapping[str, Any]


def rounds_files(runs: Iterable[Path]) -> list[Path]:
    """The reports that belong to some runs, each once; those that there are."""
    folders = (folder for run in runs for folder in run.absolute().parents[:2])
    return [path for path in dict.fromkeys(folder / NAME for folder in folders) if path.is_file()]


def file_version(path: Path) -> int:
    """A number that changes with a file; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def read_rounds(path: Path) -> list[Round]:
    """The rounds of a report, `{"rounds": [{"number": 1, ...}, ...]}`, each as flat figures and
    words; [] where there is no such file or it is of another shape.

    Of what is nested only objects with a "share" are shown, under the names that lead to them.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["rounds"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        return []
    return [dict(_flat(one)) for one in found]


def rounds_html(rounds: Sequence[Round]) -> str:
    """The rounds as a table, and those of their figures that are shares as curves."""
    keys = list(dict.fromkeys(key for one in rounds for key in one))
    heads = "".join(f"<th>{_words(key)}</th>" for key in keys)
    rows = "".join(
        f"<tr>{''.join(f'<td>{_figure(one.get(key))}</td>' for key in keys)}</tr>" for one in rounds
    )
    curves = "".join(_curve(key, [one.get(key) for one in rounds]) for key in keys)
    return (
        f'<h3>Rounds</h3><div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{rows}'
        f'</tbody></table></div><div class="curves">{curves}</div>'
    )


def _flat(one: Round) -> Iterator[tuple[str, Any]]:
    """A round's own figures and words, the share solved, and the shares below."""
    for key, value in one.items():
        if isinstance(value, str | int | float):
            yield key, value
    searched, solved = one.get("searched"), one.get("solved")
    if isinstance(searched, int) and isinstance(solved, int) and 0 <= solved <= searched > 0:
        yield "solved of searched", solved / searched
    yield from _shares(one, (), 0)


def _shares(
    held: Mapping[str, Any], names: tuple[str, ...], depth: int
) -> Iterator[tuple[str, Any]]:
    """All shares below, by the names that lead to them."""
    share = held.get(_SHARE)
    if names and isinstance(share, float):
        yield " ".join(names), share
    for key, value in held.items():
        if isinstance(value, dict) and depth < _DEEPEST:
            yield from _shares(value, (*names, key), depth + 1)


def _words(key: str) -> str:
    """A key as words."""
    return escape(sanitize(key.replace("_", " ")))


def _figure(value: Any) -> str:
    """A value of a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else short(str(value), 60)


def _curve(key: str, values: Sequence[Any]) -> str:
    """A figure over the rounds, where it is a share in [0, 1]; "" for others."""
    held = [(at, v) for at, v in enumerate(values) if v is not None]
    if len(held) < 2 or not all(isinstance(v, float) and 0 <= v <= 1 for _, v in held):
        return ""
    step = 200 / (len(values) - 1)
    points = [(10 + step * at, 70 - 60 * value) for at, value in held]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
    said = ", ".join(f"{value:.3g}" for _, value in held)
    first, last = held[0][1], held[-1][1]
    return (
        f'<figure><svg class="curve" viewBox="0 0 220 80" role="img" aria-label="{_words(key)}: '
        f'{said}"><path class="axis" d="M10 10V70H210"/><polyline points="{line}"/>{dots}</svg>'
        f"<figcaption>{_words(key)}, {first:.0%} to {last:.0%}</figcaption></figure>"
    )


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
    return f'<tr><th scope="row">{escape(sanitize(column.label))}</th>{figures}</tr>'


def _differences(sources: Sequence[Source]) -> str:
    """Options that are not the same in all runs."""
    held = [source.conditions() for source in sources]
    keys = sorted({key for one in held for key in one})
    rows = []
    for key in keys:
        values = [json.dumps(one.get(key), ensure_ascii=False) for one in held]
        if len(set(values)) > 1:
            cells = "".join(f"<td>{short(value, 80)}</td>" for value in values)
            rows.append(f'<tr><th scope="row">{escape(sanitize(key))}</th>{cells}</tr>')
    if not rows:
        return "<p>The runs were made with the same options.</p>"
    heads = "".join(f"<th>{escape(sanitize(name))}</th>" for name in names(sources))
    shown = "".join(rows[:_MOST_OPTIONS])
    return (
        f'<h3>Options in which the runs differ</h3><div class="scroll"><table><thead><tr><th>option'
        f"</th>{heads}</tr></thead><tbody>{shown}</tbody></table></div>"
    )
