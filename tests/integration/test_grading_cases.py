"""The table of graded cases, and the reference answers of public sets, through the whole grader."""

import asyncio
import gzip
import json
from pathlib import Path

import pytest

from rstar_math.config import GradingConfig
from rstar_math.grading import Grader
from rstar_math.types import Verdict

_ROOT = Path(__file__).parents[2]
_TABLE = json.loads((_ROOT / "tests" / "data" / "grading_cases.json").read_text(encoding="utf-8"))
_SETS = [
    "gsm8k",
    "math",
    "math500",
    "aime24",
    "amc23",
    "olympiadbench",
    "college_math",
    "gaokao2023en",
    "svamp",
    "mawps",
    "gsm_hard",
]


def test_every_case_of_the_table_is_judged_as_written() -> None:
    cases = [(why, gold, pred, want) for why, rows in _TABLE.items() for gold, pred, want in rows]

    async def run() -> list[str]:
        async with Grader(GradingConfig(workers=1)) as grader:
            judged = await grader.compare_many([(pred, gold) for _, gold, pred, _ in cases])
        return [
            f"{why}: {pred!r} for {gold!r} is {result.verdict}, not {want} ({result.reason})"
            for (why, gold, pred, want), result in zip(cases, judged, strict=True)
            if not (
                result.verdict == want
                or (want == "not right" and result.verdict is not Verdict.RIGHT)
            )
        ]

    assert asyncio.run(run()) == []


def _references(folder: Path) -> list[str]:
    rows: set[str] = set()
    for path in sorted(folder.glob("*.jsonl*")):
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            rows.update(json.loads(line)["answer"] for line in lines)
    return sorted(rows)


@pytest.mark.parametrize("name", _SETS)
def test_every_public_reference_equals_itself_and_its_box(name: str, data_dir: Path) -> None:
    references = _references(data_dir / name)

    async def run() -> list[str]:
        async with Grader(GradingConfig(workers=1)) as grader:
            judged = await grader.compare_many([(answer, answer) for answer in references])
            boxed = await grader.compare_many(
                [
                    (f"So it is $\\boxed{{{answer}}}$.", answer)
                    for answer in references
                    if _balanced(answer)
                ]
            )
        wrong = [
            a for a, j in zip(references, judged, strict=True) if j.verdict is not Verdict.RIGHT
        ]
        balanced = [answer for answer in references if _balanced(answer)]
        return wrong + [
            a for a, j in zip(balanced, boxed, strict=True) if j.verdict is not Verdict.RIGHT
        ]

    assert asyncio.run(run()) == []


def _balanced(text: str) -> bool:
    plain = text.replace("\\{", "").replace("\\}", "")
    return plain.count("{") == plain.count("}") and "$" not in text and "\n" not in text
