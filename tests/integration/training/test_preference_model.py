"""The preference model gives what plain transformers give, runs each token once, and refuses what
is no checkpoint of its kind."""

import asyncio
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from rstar_math.checkpoints.folders import mark_complete, read_notes
from rstar_math.config import load_config
from rstar_math.costs import track_cost
from rstar_math.errors import InputError
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.ppm.token_tree import encode
from rstar_math.prompts.templates import prompt_text, solution_text
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedPolicy
from rstar_math.types import Question, Step
from tests.unit.toy import QUESTION, script
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")


@pytest.fixture(scope="module")
def ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random preference model."""
    from rstar_math.models.loading import load_value_model

    root = tmp_path_factory.mktemp("ppm")
    model, tokenizer = load_value_model(str(save_tiny_policy(root / "policy")), fresh=True)
    torch.manual_seed(3)
    torch.nn.init.normal_(model.score.weight, std=0.3)
    model.save_pretrained(root / "ppm")
    tokenizer.save_pretrained(root / "ppm")
    return root / "ppm"


def plain_value(folder: Path, question: Question, prefix: Sequence[Step]) -> float:
    """The value as transformers' own classification head gives it."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(prompt_text(question) + solution_text(prefix), return_tensors="pt").input_ids
    with torch.no_grad():
        return float(torch.tanh(model(input_ids=ids).logits[0, 0]))


def test_values_are_those_of_plain_transformers_cached_or_not(ppm: Path) -> None:
    scorer = LocalPPM.load(ppm)
    steps = [solution(4), solution(4, 12), solution(4, 99)]

    async def work() -> None:
        for depth in (1, 2, 3):
            prefixes = [s[:depth] for s in steps]
            values = await scorer.score(question(4), prefixes)
            again = await scorer.score(question(4), prefixes)
            plain = [plain_value(ppm, question(4), p) for p in prefixes]
            assert values == pytest.approx(plain, abs=1e-5)
            assert again == pytest.approx(plain, abs=1e-5)
            assert len(set(plain)) == (1 if depth == 1 else 3)

    asyncio.run(work())


def test_concurrent_questions_run_as_one_batch_and_get_their_own_values(ppm: Path) -> None:
    scorer = LocalPPM.load(ppm, batch_tokens=400)
    runs: list[int] = []
    run = scorer._run
    scorer._run = lambda calls: runs.append(len(calls)) or run(calls)  # type: ignore[method-assign,func-returns-value]

    async def work() -> list[list[float]]:
        first = [scorer.score(question(n), [solution(n)[:1]]) for n in range(9)]
        await asyncio.gather(*first)
        calls = [scorer.score(question(n), [solution(n), solution(n, 5)]) for n in range(9)]
        return await asyncio.gather(*calls)

    for n, values in enumerate(asyncio.run(work())):
        for value, prefix in zip(values, (solution(n), solution(n, 5)), strict=True):
            assert value == pytest.approx(plain_value(ppm, question(n), prefix), abs=1e-5)
    assert runs == [9, 9]


def test_alone_the_same_prefix_gets_the_same_bits_and_the_same_bill(ppm: Path) -> None:
    """Whatever else is asked at the time, or was asked before."""
    prefixes = [solution(n)[:depth] for n in range(6) for depth in (1, 2)]

    async def asked(order: Sequence[int], together: bool) -> dict[int, tuple[float, int]]:
        scorer = LocalPPM.load(ppm, deterministic=True)
        found = {}

        async def one(at: int) -> None:
            with track_cost() as cost:
                (value,) = await scorer.score(question(4), [prefixes[at]])
            found[at] = (value, cost.scorer_tokens)

        if together:
            await asyncio.gather(*(one(at) for at in order))
        else:
            for at in order:
                await one(at)
        return found

    first = asyncio.run(asked(range(12), together=True))
    second = asyncio.run(asked((*range(11, -1, -1), 3, 3), together=False))
    assert first == second
    assert first[5][0] == pytest.approx(plain_value(ppm, question(4), prefixes[5]), abs=1e-5)


def test_a_new_node_costs_its_own_tokens(ppm: Path) -> None:
    """A search-shaped workload: 8 children a layer, of which one is gone on from."""
    scorer = LocalPPM.load(ppm)
    tokenizer = scorer._tokenizer
    own = run = 0

    def count(prefix: Sequence[Step]) -> int:
        return len(tokenizer(prompt_text(question(1)) + solution_text(prefix)).input_ids)

    async def work() -> None:
        nonlocal own, run
        prefix: tuple[Step, ...] = ()
        own += count(prefix)
        for layer in range(6):
            children = [
                (*prefix, Step(prose=f"# Try {n} in layer {layer}.\n", code=f"x = {n} * {n}\n"))
                for n in range(8)
            ]
            with track_cost() as cost:
                await scorer.score(question(1), children)
            run += cost.scorer_tokens
            own += sum(count(child) - count(prefix) for child in children)
            prefix = children[layer]

    asyncio.run(work())
    assert run <= 1.3 * own
    assert run > 0.5 * own


def test_a_cut_never_takes_the_judged_step(ppm: Path) -> None:
    tokenizer = LocalPPM.load(ppm)._tokenizer
    steps = [Step(prose=f"# Step {n}.\n", code=f"x{n} = {n}\n") for n in range(40)]
    asked = tuple(tokenizer(prompt_text(question(1))).input_ids)
    last = tuple(tokenizer(solution_text([*steps])).input_ids)[-20:]
    cut = encode(tokenizer, question(1), steps, max_tokens=100)
    assert cut is not None
    assert cut.truncated
    assert len(cut.tokens) == 100
    assert cut.tokens[: len(asked)] == asked
    assert cut.tokens[-20:] == last
    assert encode(tokenizer, question(1), steps, max_tokens=len(asked) + 5) is None


def test_what_cannot_be_judged_is_counted_and_worth_nothing(ppm: Path) -> None:
    scorer = LocalPPM.load(ppm, max_tokens=30)

    async def work() -> list[float]:
        return await scorer.score(question(1), [solution(1)])

    with track_cost() as cost:
        assert asyncio.run(work()) == [0.0]
    assert cost.unscorable == 1


def sentence_of(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        LocalPPM.load(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_bad_checkpoints_are_refused_in_a_sentence(ppm: Path, tmp_path: Path) -> None:
    assert "no checkpoint" in sentence_of(tmp_path / "nothing")
    assert "no config.json" in sentence_of(tmp_path)
    assert "no value head" in sentence_of(ppm.parent / "policy")

    half = tmp_path / "half"
    shutil.copytree(ppm, half)
    weights = half / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "cannot be loaded" in sentence_of(half)

    other = tmp_path / "other"
    shutil.copytree(ppm, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert "cannot be loaded" in sentence_of(other)

    many = tmp_path / "many"
    from transformers import AutoModelForSequenceClassification

    AutoModelForSequenceClassification.from_pretrained(
        ppm.parent / "policy", num_labels=3
    ).save_pretrained(many)
    shutil.copy(ppm / "tokenizer.json", many)
    shutil.copy(ppm / "tokenizer_config.json", many)
    assert "3 outputs" in sentence_of(many)


def test_a_marked_checkpoint_that_was_not_copied_whole_is_refused(
    ppm: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ppm, copy)
    mark_complete(copy, {"kind": "ppm"})
    assert read_notes(copy)["kind"] == "ppm"
    (copy / "tokenizer.json").unlink()
    assert "incomplete" in sentence_of(copy)


def test_being_cancelled_leaves_the_scorer_usable_also_in_another_loop(ppm: Path) -> None:
    scorer = LocalPPM.load(ppm)

    async def cancelled() -> None:
        calls = [asyncio.create_task(scorer.score(question(n), [solution(n)])) for n in range(6)]
        await asyncio.sleep(0)
        calls[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await calls[0]

    async def after() -> list[float]:
        return await scorer.score(question(3), [solution(3)])

    asyncio.run(cancelled())
    plain = plain_value(ppm, question(3), solution(3))
    assert asyncio.run(after()) == [pytest.approx(plain, abs=1e-5)]


def test_the_solver_values_steps_with_a_checkpoint(ppm: Path, tmp_path: Path) -> None:
    async def values(folder: str) -> tuple[list[float], list[float]]:
        settings = ["search.scorer=ppm", f"search.ppm={folder}", "search.rollouts=3"]
        config = load_config(None, settings)
        async with Solver(config, policy=ScriptedPolicy(script)) as solver:
            tree = (await solver.solve(QUESTION)).tree
        scored = [index for index, node in enumerate(tree.nodes) if node.score is not None]
        assert len(scored) == len(tree) - 1
        scorer = LocalPPM.load(ppm)
        again = await scorer.score(QUESTION, [tree.prefix(index) for index in scored])
        return [tree.nodes[index].score or 0.0 for index in scored], again

    in_search, apart = asyncio.run(values(str(ppm)))
    assert in_search == pytest.approx(apart, abs=1e-5)
    with pytest.raises(InputError):
        asyncio.run(values(str(tmp_path)))
