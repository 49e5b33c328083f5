"""Models that do not fit what is asked of them are refused in a sentence, and nothing is left of
the attempt."""

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import InputError, StoreError
from rstar_math.models.loading import load_policy, load_value_model
from rstar_math.training.settings import PolicyTraining, PreferenceTraining, ProbeTraining
from tests.integration.training.test_policy_training import ROWS as SOLUTIONS
from tests.integration.training.test_preference_training import ROWS
from tests.unit.training.tiny import save_tiny_policy

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

ONE_STEP = PreferenceTraining(max_steps=1, batch_size=2, micro_batch_size=2, bf16=False)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")


@pytest.fixture(scope="module")
def scorer(policy: Path) -> Path:
    """A policy with a value head in place of its word head."""
    model, tokenizer = load_value_model(str(policy), fresh=True)
    model.save_pretrained(policy.parent / "scorer")
    tokenizer.save_pretrained(policy.parent / "scorer")
    return policy.parent / "scorer"


@pytest.fixture(scope="module")
def bert(policy: Path) -> Path:
    """A model that reads in both directions."""
    from transformers import BertConfig, BertForMaskedLM

    folder = policy.parent / "bert"
    config = BertConfig(
        vocab_size=400,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(policy / name, folder)
    return folder


def refusal(work: Callable[[], Any]) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(InputError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_large_tokenizer(policy: Path, folder: Path) -> Path:
    """A policy with a tokenizer that has more tokens than it knows."""
    shutil.copytree(policy, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    for number in range(50):
        vocabulary[f"unheard-of-{number}"] = len(vocabulary)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


def test_a_scorer_is_no_policy(scorer: Path) -> None:
    assert "is a scorer (LlamaForSequenceClassification)" in refusal(
        lambda: load_policy(str(scorer))
    )


def test_a_model_that_does_not_continue_text_is_refused(bert: Path) -> None:
    assert "causal language model" in refusal(lambda: load_policy(str(bert)))
    assert "causal language model" in refusal(lambda: load_value_model(str(bert), fresh=True))


def test_a_policy_without_its_word_head_is_not_given_a_random_one(
    policy: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    model, tokenizer = load_policy(str(policy))
    model.config.tie_word_embeddings = False
    torch.manual_seed(0)
    untied = AutoModelForCausalLM.from_config(model.config)
    untied.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert "lacks lm_head.weight" in refusal(lambda: load_policy(str(tmp_path)))


def test_a_tokenizer_of_another_model_is_refused(policy: Path, tmp_path: Path) -> None:
    from rstar_math.training.probe import train_probe

    other = str(with_large_tokenizer(policy, tmp_path / "other"))
    for work in (
        lambda: load_policy(other),
        lambda: load_value_model(other, fresh=True),
        lambda: train_probe(ROWS, other, tmp_path / "probe", ProbeTraining()),
    ):
        assert "tokenizer" in refusal(work)
    assert not (tmp_path / "probe").exists()


def test_trainers_refuse_them_and_leave_no_model(bert: Path, tmp_path: Path) -> None:
    from rstar_math.training.preference import train_preference

    out = tmp_path / "out"
    assert "causal" in refusal(lambda: train_preference(ROWS, str(bert), out, ONE_STEP))
    assert not out.exists()


def few_bytes(most: int) -> Callable[[], None]:
    """Let files of this process grow to `most` bytes, as on a full disk; gives what undoes it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("save_every", [1, 50], ids=["a-checkpoint", "the-model"])
@pytest.mark.parametrize("kind", ["policy", "ppm"])
def test_a_full_disk_is_a_sentence_and_leaves_no_model(
    policy: Path, tmp_path: Path, kind: str, save_every: int
) -> None:
    from rstar_math.training.preference import train_preference
    from rstar_math.training.sft import train_policy

    def train() -> dict[str, Any]:
        out = tmp_path / "out"
        over = {"save_steps": save_every}
        if kind == "ppm":
            return train_preference(ROWS, str(policy), out, ONE_STEP.model_copy(update=over))
        settings = PolicyTraining(max_steps=1, batch_size=2, micro_batch_size=2, bf16=False)
        return train_policy(SOLUTIONS, str(policy), out, settings.model_copy(update=over))

    undo = few_bytes(30_000)
    try:
        with pytest.raises(StoreError, match="cannot be written") as caught:
            train()
    finally:
        undo()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*.part"))
    assert train()["steps"] == 1
