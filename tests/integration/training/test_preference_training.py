"""Training of tiny scorers with TRL: the loss is the plain one, what is common is run once, and
what is written is what the scorer reads."""

import asyncio
from pathlib import Path

import pytest

from rstar_math.checkpoints.folders import read_notes
from rstar_math.errors import InputError
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.prompts.templates import prompt_text, solution_text
from rstar_math.training.rows import OutcomeRow, PreferenceRow, ValueRow
from rstar_math.training.settings import PreferenceTraining, ProbeTraining
from rstar_math.types import Step
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SETTINGS = PreferenceTraining(
    learning_rate=3e-3,
    epochs=12,
    batch_size=8,
    micro_batch_size=4,
    held_out=0.3,
    bf16=False,
    save_steps=1000,
)


def pairs(number: int, *, depth: int = 1) -> list[PreferenceRow]:
    """A node's four pairs: two right ways on against two wrong ones."""
    steps = solution(number)
    prompt = prompt_text(question(number)) + solution_text(steps[:depth])
    right = solution_text(steps)[len(solution_text(steps[:depth])) :]
    rights = [right, "# So:\n" + right]
    wrongs = ["# Guess.\nprint('?')\n<step/>\n", "# No idea.\npass\n<step/>\n"]
    return [
        PreferenceRow(prompt=prompt, chosen=r, rejected=w, problem=f"q{number}", weight=0.25)
        for r in rights
        for w in wrongs
    ]


GUESS = Step(prose="# Guess.\n", code="print('?')\n")
ROWS = [row for number in range(24) for row in pairs(number)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


def test_shared_prefixes_give_the_loss_and_gradients_of_the_plain_way(policy: Path) -> None:
    from rstar_math.models.loading import load_value_model
    from rstar_math.training.batches import collate, group_rows
    from rstar_math.training.preference import loss_sum, raw_scores, value_head

    model, tokenizer = load_value_model(str(policy), fresh=True)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    found = {}
    for shared in (True, False):
        groups, _ = group_rows(ROWS[:16], tokenizer, max_tokens=512, shared=shared)
        inputs = collate(groups, tokenizer.pad_token_id)
        model.zero_grad()
        loss = loss_sum(raw_scores(model, inputs, value_head(model)), inputs, "ppm")
        loss.backward()
        grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        found[shared] = (loss.item(), grads, sum(g.size for g in groups))
    assert found[True][0] == pytest.approx(found[False][0], abs=1e-4)
    assert torch.allclose(found[True][1], found[False][1], atol=1e-4)
    assert found[True][2] < 0.4 * found[False][2]
    plain = 0.0
    for row in ROWS[:16]:
        sides = []
        for text in (row.chosen, row.rejected):
            ids = tokenizer(row.prompt + text, return_tensors="pt").input_ids
            sides.append(torch.tanh(model(input_ids=ids).logits[0, 0]))
        plain -= row.weight * torch.nn.functional.logsigmoid(sides[0] - sides[1]).item()
    assert found[True][0] == pytest.approx(plain, abs=1e-4)


def test_the_loss_does_not_depend_on_the_batches(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.preference import train_preference

    few = [row for n in range(8) for row in pairs(n)[: 1 + n % 4]]
    losses = []
    for micro in (1, 8):
        settings = SETTINGS.model_copy(
            update={
                "micro_batch_size": micro,
                "batch_size": 8,
                "epochs": 1,
                "held_out": 1e-9,
                "max_steps": 1,
            }
        )
        out = tmp_path / str(micro)
        losses.append(train_preference(few, str(policy), out, settings)["first_loss"])
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)


def test_a_ppm_learns_is_reproducible_and_is_what_the_scorer_reads(
    policy: Path, tmp_path: Path
) -> None:
    from rstar_math.training.preference import train_preference

    first = train_preference(ROWS, str(policy), tmp_path / "a", SETTINGS)
    second = train_preference(ROWS, str(policy), tmp_path / "b", SETTINGS)
    assert first == second
    held = first["held_out"]
    assert held["pairs"] == 4 * held["problems"] > 0
    assert held["accuracy"] > 0.9
    assert first["last_loss"] < 0.4
    assert read_notes(tmp_path / "a")["kind"] == "ppm"
    scorer = LocalPPM.load(tmp_path / "a")

    async def work() -> list[float]:
        return await scorer.score(question(90), [solution(90), (solution(90)[0], GUESS)])

    values = asyncio.run(work())
    assert values[0] > values[1]


@pytest.mark.parametrize("bf16", [False, True])
def test_lora_trains_adapter_and_head(policy: Path, tmp_path: Path, bf16: bool) -> None:
    from rstar_math.training.preference import train_preference

    settings = SETTINGS.model_copy(update={"lora_rank": 4, "bf16": bf16, "epochs": 6})
    report = train_preference(ROWS, str(policy), tmp_path / "lora", settings)
    assert report["last_loss"] < report["first_loss"]
    LocalPPM.load(tmp_path / "lora")
    assert (tmp_path / "lora" / "adapter").is_dir()


def outcomes() -> list[OutcomeRow]:
    return [
        OutcomeRow(
            prompt=prompt_text(question(n)),
            completion=solution_text(solution(n)[:2]) if right else "<code>\n# Guess.\n<step/>\n",
            problem=f"q{n}",
            label=right,
        )
        for n in range(24)
        for right in (True, False)
    ]


def test_the_same_trainer_makes_an_orm_and_a_pqm(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.preference import train_preference

    settings = SETTINGS.model_copy(update={"objective": "orm"})
    orm = train_preference(outcomes(), str(policy), tmp_path / "orm", settings)
    assert orm["held_out"]["squared_error"] < 0.2
    values = [
        ValueRow(**row.model_dump(exclude={"label"}), value=0.5 if row.label else -0.5)
        for row in outcomes()
    ]
    settings = SETTINGS.model_copy(update={"objective": "pqm"})
    pqm = train_preference(values, str(policy), tmp_path / "pqm", settings)
    assert pqm["held_out"]["squared_error"] < 0.1
    assert pqm["first_loss"] == pytest.approx(0.25, abs=1e-3)


@pytest.mark.parametrize(
    "probe",
    [ProbeTraining(held_out=0.3), ProbeTraining(held_out=0.3, hidden=8, layers=(1, -1))],
)
def test_a_probe_ranks_and_scores_like_any_ppm(
    policy: Path, tmp_path: Path, probe: ProbeTraining
) -> None:
    from rstar_math.training.probe import train_probe

    report = train_probe(ROWS, str(policy), tmp_path / "probe", probe)
    assert report["held_out"]["accuracy"] > 0.9
    scorer = LocalPPM.load(tmp_path / "probe")

    async def work() -> list[float]:
        return await scorer.score(question(90), [solution(90), (solution(90)[0], GUESS)])

    values = asyncio.run(work())
    assert values[0] > values[1]
    other = save_tiny_policy(tmp_path / "other", size=64)
    with pytest.raises(InputError, match="name its own policy"):
        LocalPPM.load(tmp_path / "probe", base=str(other))


def test_nothing_to_learn_is_a_sentence(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.preference import train_preference

    with pytest.raises(InputError, match="no rows"):
        train_preference([], str(policy), tmp_path / "a", SETTINGS)
    right = [row for row in outcomes() if row.label]
    orm = SETTINGS.model_copy(update={"objective": "orm"})
    with pytest.raises(InputError, match="are right"):
        train_preference(right, str(policy), tmp_path / "b", orm)
    equal = [ValueRow(**row.model_dump(exclude={"label"}), value=-1) for row in outcomes()]
    pqm = SETTINGS.model_copy(update={"objective": "pqm"})
    with pytest.raises(InputError, match="values are -1"):
        train_preference(equal, str(policy), tmp_path / "b", pqm)
    short = SETTINGS.model_copy(update={"max_tokens": 16})
    with pytest.raises(InputError, match="max_tokens"):
        train_preference(ROWS, str(policy), tmp_path / "c", short)
