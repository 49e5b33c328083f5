"""What the rounds of an evolution came to, as a table and as curves: read from the `report.json`
that an evolution keeps in its folder, whose runs lie there or one folder below."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from rstar_math.foreign import plain
from rstar_math.serve.viewer.steps import short

NAME = "report.json"
_SHARE = "share"
_DEEPEST = 4

Round = Mapping[str, Any]


def rounds_files(runs: Iterable[Path]) -> list[Path]:
    """The reports that belong to some runs, each once; those that there are."""
    folders = (folder for run in runs for folder in run.absolute().parents[:2])
    return [path for path in dict.fromkeys(folder / NAME for folder in folders) if path.is_file()]


def stamp(path: Path) -> int:
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
    return escape(plain(key.replace("_", " ")))


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
