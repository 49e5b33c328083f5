"""Training of a tiny policy with TRL: what is trained on and what comes out."""

import json
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints.folders import read_notes
from rstar_math.errors import InputError
from rstar_math.models.loading import load_policy
from rstar_math.training.rows import SftRow, solution_row
from rstar_math.training.settings import PolicyTraining
from tests.integration.training.checkpoint import weights
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

SETTINGS = PolicyTraining(
    learning_rate=1e-2,
    epochs=3,
    batch_size=4,
    micro_batch_size=2,
    weight_decay=0,
    save_steps=2,
    bf16=False,
    progress_s=0,
)
ROWS = [solution_row(question(n), solution(n)) for n in range(12)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


def equal(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return all(torch.equal(first[name], second[name]) for name in first)


def test_only_what_the_model_wrote_is_trained_on(policy: Path) -> None:
    from rstar_math.training.sft import IGNORE_INDEX, encode_solution

    _, tokenizer = load_policy(str(policy))
    example = encode_solution(tokenizer, ROWS[5])
    trained = [token for token in example["labels"] if token != IGNORE_INDEX]
    text = tokenizer.decode(trained)
    assert tokenizer.decode(example["input_ids"]) == ROWS[5].prompt + ROWS[5].completion
    assert "Question" not in text
    assert "```output" not in text
    assert "print(13)\n```\n" in text
    assert text.endswith("It is \\boxed{13}.")


def test_the_sparse_loss_is_the_plain_one(policy: Path) -> None:
    from rstar_math.training.sft import encode_solution, sparse_loss

    model, tokenizer = load_policy(str(policy))
    examples = [encode_solution(tokenizer, row) for row in ROWS[:3]]
    length = max(len(e["input_ids"]) for e in examples)

    def padded(key: str, fill: int) -> Any:
        return torch.tensor([e[key] + [fill] * (length - len(e[key])) for e in examples])

    inputs = {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100)}
    inputs["attention_mask"] = torch.tensor(
        [[1] * len(e["labels"]) + [0] * (length - len(e["labels"])) for e in examples]
    )
    plain = model(**inputs).loss
    sparse = sparse_loss(model, inputs, bf16=False)
    assert sparse.item() == pytest.approx(plain.item(), abs=1e-5)
    plain.backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    sparse.backward()
    for p, grad in zip(model.parameters(), grads, strict=True):
        assert torch.allclose(p.grad, grad, atol=1e-5)


def test_training_learns_is_reproducible_and_says_what_it_was_made_from(
    policy: Path, tmp_path: Path
) -> None:
    from rstar_math.training.sft import train_policy

    said: list[str] = []
    first = train_policy(ROWS, str(policy), tmp_path / "a", SETTINGS, log=said.append)
    second = train_policy(ROWS, str(policy), tmp_path / "b", SETTINGS)
    assert first["last_loss"] < 0.7 * first["first_loss"]
    assert first["losses"] == second["losses"]
    assert equal(tmp_path / "a", tmp_path / "b")
    assert first["steps"] == len(said) == 9
    assert all("tokens/s" in line for line in said)
    notes = read_notes(tmp_path / "a")
    assert notes["base"] == str(policy)
    assert notes["settings"]["epochs"] == 3
    assert not (tmp_path / "a.training").exists()
    load_policy(str(tmp_path / "a"))


def test_bf16_and_lora_train_too_and_leave_merged_weights(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.sft import train_policy

    settings = SETTINGS.model_copy(update={"bf16": True, "lora_rank": 4})
    report = train_policy(ROWS, str(policy), tmp_path / "lora", settings)
    assert report["last_loss"] < report["first_loss"]
    assert (tmp_path / "lora" / "adapter" / "adapter_model.safetensors").is_file()
    assert weights(tmp_path / "lora").keys() == weights(policy).keys()
    assert not equal(tmp_path / "lora", policy)


def test_bad_inputs_are_refused_in_a_sentence(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.sft import train_policy

    long = SftRow(prompt="Question: x\n", completion="y" * 4000)
    with pytest.raises(InputError, match="max_tokens"):
        train_policy([long], str(policy), tmp_path / "a", SETTINGS)
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="already exists"):
        train_policy(ROWS, str(policy), tmp_path / "b", SETTINGS)
    (tmp_path / "c.training" / "checkpoint-2").mkdir(parents=True)
    (tmp_path / "c.training" / "inputs.json").write_text(json.dumps({"other": 1}))
    with pytest.raises(InputError, match="other data or settings"):
        train_policy(ROWS, str(policy), tmp_path / "c", SETTINGS)
    with pytest.raises(InputError, match="no checkpoint"):
        train_policy(ROWS, str(tmp_path / "nowhere"), tmp_path / "d", SETTINGS)
