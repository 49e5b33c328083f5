"""The parts of a report that put things side by side: each problem under every strategy, the
papers' figures beside ours, and what the runs were made with."""

import json
from collections.abc import Sequence
from hashlib import file_digest

from rstar_math import __version__
from rstar_math.evaluation.markup import Block, Cell, Heading, Link, Paragraph, Table
from rstar_math.evaluation.metrics import wilson
from rstar_math.evaluation.published import published_on
from rstar_math.evaluation.recorded import Reading
from rstar_math.evaluation.series import Run, Series
from rstar_math.serve.page import anchor

_QUESTION_CHARS = 90
_ANSWER_CHARS = 24
_MOST_IN_MARKDOWN = 60


def problem_by_problem(series: Sequence[Series], *, linked: bool) -> list[Block]:
    """Each problem with every strategy's answer and, if `linked`, the way to its tree; those on
    which the strategies disagree first."""
    by_series = [{r.problem.id: r for r in one.readings} for one in series]
    problems = {r.problem.id: r.problem for held in by_series for r in held.values()}
    apart: list[list[Cell]] = []
    alike: list[list[Cell]] = []
    for key, problem in problems.items():
        cells: list[Cell] = [key, cut(problem.question.text, _QUESTION_CHARS)]
        cells.append(cut(problem.reference or "", _ANSWER_CHARS))
        seen = set()
        for one, held in zip(series, by_series, strict=True):
            reading = held.get(key)
            cells.append(_answer(one, reading, linked=linked))
            if reading is not None:
                seen.add(reading.right)
        (apart if len(seen) > 1 else alike).append(cells)
    header = ["problem", "question", "reference", *(one.label for one in series)]
    blocks: list[Block] = [Heading("Problem by problem")]
    words = len(header)
    if apart:
        text = f"{len(apart)} problems on which the strategies disagree"
        blocks.append(Paragraph(f"{text}{'; each answer leads to its tree' if linked else ''}."))
        blocks.append(Table(header, apart, words=words, most=_MOST_IN_MARKDOWN))
    if alike:
        title = f"{len(alike)} problems on which all agree, right or wrong"
        blocks.append(Table(header, alike, words=words, folded=title, most=_MOST_IN_MARKDOWN))
    return blocks if len(blocks) > 1 else []


def _answer(one: Series, reading: Reading | None, *, linked: bool) -> Cell:
    """A strategy's answer to a problem."""
    if reading is None:
        return "-"
    answer = reading.result.choice.answer
    mark, kind = ("✓", "good") if reading.right else ("✗", "bad")
    text = "no answer" if answer is None else f"{mark} {cut(answer, _ANSWER_CHARS)}"
    place = anchor(one.strategy, reading.problem.id)
    target = f"trees-{one.run + 1}.html#{place}" if linked else ""
    return Link(text, target, "none" if answer is None else kind)


def papers(runs: Sequence[Run], series: Sequence[Series]) -> list[Block]:
    """The papers' figures on the benchmarks of these runs, with ours among them."""
    blocks: list[Block] = []
    for benchmark in sorted({name for run in runs for name in benchmarks_of(run)}):
        theirs = published_on(benchmark)
        if not theirs:
            continue
        rows: list[list[Cell]] = []
        for one in series:
            here = [r.right for r in one.readings if benchmark_of(r.problem.id) == benchmark]
            if here:
                low, high = wilson(sum(here), len(here))
                interval = f"{100 * low:.1f}–{100 * high:.1f}, {len(here)} problems"
                share = f"{100 * sum(here) / len(here):.1f}"
                model = runs[one.run].facts.get("model") or "model not recorded"
                rows.append(["ours", one.label, model, share, interval])
        for figure in theirs:
            unsure = "; not verified" if figure.unsure else ""
            where = f"{figure.table}: {figure.what} ({figure.source}{unsure})"
            theirs_of = f"theirs, {figure.paper}"
            rows.append([theirs_of, figure.row, figure.model, f"{figure.percent:.1f}", where])
        header = ["whose", "method", "model", "right, %", "interval, or where it stands"]
        blocks.append(Paragraph(f"Benchmark {benchmark}:"))
        blocks.append(Table(header, rows, words=3))
    if not blocks:
        return []
    note = (
        "Theirs are copied from the papers, on their models, prompts and graders, and are no "
        "baseline of this run: only ours were measured here. That rStar-Math's MATH column is "
        "MATH-500, and rows marked so, are not verified. Theirs are of whole sets; ours of the "
        "problems counted. rStar-Math's rows use a code interpreter, most others do not."
    )
    return [Heading("Beside the papers"), Paragraph(note), *blocks]


def benchmark_of(problem: str) -> str:
    """The benchmark that an id names, as in "svamp/test/12"."""
    return problem.partition("/")[0]


def benchmarks_of(run: Run) -> set[str]:
    """The benchmarks that a run's problems are of: by their source, else by their ids."""
    return {p.source or benchmark_of(p.id) for p in run.problems.values()}


def circumstances(runs: Sequence[Run]) -> list[Block]:
    """Configuration, seeds, versions and hashes: what it takes to do it again."""
    header = ["", *(run.label for run in runs)]
    facts: list[tuple[str, list[str]]] = [
        ("file", [run.path.name for run in runs]),
        ("SHA-256 of the file", [_hash(run) for run in runs]),
        ("problems", [str(len(run.problems)) for run in runs]),
        ("SHA-256 of the problems", [run.problems_hash for run in runs]),
        ("model", [run.facts.get("model", "not recorded") for run in runs]),
        ("made with rstar-math", [run.facts.get("version", "?") for run in runs]),
        ("libraries of the sandbox", [_libraries(run) for run in runs]),
        ("report by rstar-math", [__version__] * len(runs)),
    ]
    keys = sorted({key for run in runs for key in run.conditions})
    differ: list[list[str]] = []
    equal: list[list[str]] = []
    for key in keys:
        values = [json.dumps(run.conditions.get(key), ensure_ascii=False) for run in runs]
        (differ if len(set(values)) > 1 else equal).append([key, *values])
    blocks: list[Block] = [
        Heading("Circumstances"),
        Table(header, [[name, *values] for name, values in facts], words=len(header)),
    ]
    if differ:
        blocks.append(Paragraph("Options in which the runs differ:"))
        blocks.append(Table(header, differ, words=len(header)))
    title = "All options" if not differ else "Options that are the same in all runs"
    blocks.append(Table(header, equal, words=len(header), folded=title))
    return blocks


def cut(text: str, most: int) -> str:
    """A text on one line, at most `most` characters of it."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


def _hash(run: Run) -> str:
    """The run file's checksum. A file that is being written has another one each time."""
    with run.path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _libraries(run: Run) -> str:
    """Versions that model-written code ran with."""
    try:
        found = json.loads(run.facts.get("libraries", "{}"))
    except ValueError:
        return "?"
    return ", ".join(f"{name} {version}" for name, version in found.items()) or "not recorded"
