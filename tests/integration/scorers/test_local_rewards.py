"""Process reward models in this process score as a plain run of the whole model does."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rstar_math.config import Config, load_config
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts.step_rewards import PRM_FORMATS, aggregate
from rstar_math.scorers.prm import PrmScorer, load_prm
from rstar_math.types import Question, Step
from tests.integration.scorers.tiny_rewards import QUESTION, STEPS, TINY, WRONG, save_tiny_reward

ASKED = Question("q", QUESTION)


def thoughts(texts: Sequence[str]) -> list[Step]:
    return [Step(prose=text, kind="thought") for text in texts]


@pytest.fixture(scope="module", params=TINY)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_reward(str(request.param), tmp_path_factory.mktemp("rewards"))


def config_of(folder: Path, *settings: str) -> Config:
    return load_config(None, ["search.scorer=prm", f"search.prm={folder}", *settings])


async def opened(folder: Path, *settings: str) -> PrmScorer:
    scorer = await load_prm(config_of(folder, *settings))
    assert isinstance(scorer, PrmScorer)
    return scorer


def test_every_step_has_the_plain_score(made: Path) -> None:
    """Alone, with the steps of another solution, and after the shorter prefixes."""

    async def work() -> None:
        scorer = await opened(made, "search.prm_aggregation=mean")
        assert scorer.layout is PRM_FORMATS[made.name]
        both = [thoughts(STEPS), thoughts(WRONG)]
        plain = [TINY[made.name].plain(made, texts) for texts in (STEPS, WRONG)]
        assert max(plain[0]) - min(plain[0]) > 0.02
        assert plain[0][1] != pytest.approx(plain[1][1], abs=1e-3)
        found = await scorer.step_probabilities(ASKED, both)
        for row, expected in zip(found, plain, strict=True):
            assert row is not None
            assert row == pytest.approx(expected, abs=1e-5)
        one_by_one = await opened(made, "search.prm_aggregation=last")
        for end in range(1, len(STEPS) + 1):
            (row,) = await one_by_one.step_probabilities(ASKED, [thoughts(STEPS[:end])])
            assert row is not None
            assert row[0] == pytest.approx(plain[0][end - 1], abs=1e-5)
        await scorer.aclose()
        await one_by_one.aclose()

    asyncio.run(work())


def test_the_value_aggregates_the_steps(made: Path) -> None:
    async def work() -> None:
        plain = TINY[made.name].plain(made, STEPS)
        for how in ("last", "min", "product", "mean"):
            scorer = await opened(made, f"search.prm_aggregation={how}")
            (value,) = await scorer.score(ASKED, [thoughts(STEPS)])
            assert value == pytest.approx(2 * aggregate(plain, how) - 1, abs=1e-4)
        by_authors = await opened(made)
        assert by_authors.aggregation == PRM_FORMATS[made.name].aggregation

    asyncio.run(work())


def test_a_step_is_scored_once(made: Path) -> None:
    async def work() -> tuple[int, int, int]:
        scorer = await opened(made, "search.prm_aggregation=min")
        with track_cost() as first:
            await scorer.score(ASKED, [thoughts(STEPS[:2])])
        with track_cost() as again:
            await scorer.score(ASKED, [thoughts(STEPS[:2]), thoughts(STEPS[:1])])
        with track_cost() as longer:
            await scorer.score(ASKED, [thoughts(STEPS)])
        return first.scorer_tokens, again.scorer_tokens, longer.scorer_tokens

    first, again, longer = asyncio.run(work())
    assert again == 0
    assert 0 < longer < first / 2


def test_code_is_shown_as_markdown_with_its_output(made: Path) -> None:
    from tests.unit.training.tiny import solution

    async def work() -> float:
        scorer = await opened(made)
        values = await scorer.score(ASKED, [solution(4), solution(4, 99), thoughts([""])])
        assert values[0] != values[1]
        assert all(-1 <= value <= 1 for value in values)
        return values[0]

    asyncio.run(work())


def test_a_text_that_is_too_long_has_no_value(made: Path) -> None:
    async def work() -> None:
        scorer = await opened(made)
        with track_cost() as cost:
            values = await scorer.score(ASKED, [thoughts(STEPS), thoughts(["very " * 2000])])
        assert values[1] == 0.0
        assert values[0] != 0.0
        assert cost.unscorable == 1

    asyncio.run(work())


def test_an_own_format_is_a_file(tmp_path: Path) -> None:
    folder = save_tiny_reward("math-shepherd", tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(
        'reading = "tokens"\nbefore = "{question} "\nstep = "Step {n}: {step}"\nmark = " ки"\n'
        'after = "\\n"\naggregation = "last"\n'
    )

    async def work() -> list[float]:
        scorer = await opened(folder, f"search.prm_format={file}")
        return await scorer.score(ASKED, [thoughts(STEPS)])

    plain = TINY["math-shepherd"].plain(folder, STEPS)
    assert asyncio.run(work()) == [pytest.approx(2 * plain[-1] - 1, abs=1e-5)]


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    folder = save_tiny_reward("qwen-prm", tmp_path)

    def error(kind: type[Exception], *settings: str, place: Path = folder) -> str:
        with pytest.raises(kind) as caught:
            asyncio.run(opened(place, *settings))
        return str(caught.value)

    assert "search.prm_format" in error(InputError, "search.prm_format=classifier")
    assert "prm_format" in error(ConfigError, "search.prm_format=none-such")
    assert "address" in error(InputError, "search.prm_format=reranker")
    assert "prm_head" in error(ConfigError, f"search.prm_head={folder}")
    missing = tmp_path / "nothing.toml"
    assert str(missing) in error(ConfigError, f"search.prm_format={missing}")
    assert "no checkpoint" in error(InputError, place=tmp_path / "nothing")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Other"]}))
    moved = folder.rename(tmp_path / "unknown")
    assert "search.prm_format" in error(ConfigError, place=moved)
    with pytest.raises(ConfigError, match=r"search\.prm"):
        asyncio.run(load_prm(load_config(None, ["search.scorer=prm"])))
