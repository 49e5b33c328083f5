"""A tiny policy with a tiny tokenizer, made on the spot, and steps to train it on."""

from pathlib import Path

import pytest

from rstar_math.types import Execution, ExecutionStatus, Question, Step

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")


def save_tiny_policy(folder: Path, *, seed: int = 0, size: int = 32, layers: int = 2) -> Path:
    """A random Llama and a byte-level tokenizer (of bytes, with a few merges) in a folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        ["Question: What is 1 + 2?\n<code>\n# Add.\nprint(1 + 2)\n<code/>\n<output>\n3\n</output>"],
        trainer,
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        pad_token_id=fast.pad_token_id,
        eos_token_id=fast.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def question(number: int) -> Question:
    """One of many small questions."""
    return Question(f"q{number}", f"What is {number} + {number + 3}?")


def solution(number: int, answer: int | None = None) -> tuple[Step, ...]:
    """A solution of `question(number)`; wrong where `answer` says so."""
    total = 2 * number + 3 if answer is None else answer
    return (
        Step(prose="# Name the numbers.\n", code=f"a = {number}\nb = {number + 3}\n"),
        Step(
            prose="# Add them.\n",
            code=f"print({total})\n",
            kind="code",
            execution=Execution(ExecutionStatus.OK, f"{total}\n"),
        ),
        Step(prose=f"It is \\boxed{{{total}}}.", kind="answer", answer=str(total)),
    )
