"""A tiny random model for tests and the recipe `smoke`, pretrained to copy numbers.

A pretrained language model can copy a number that it has just read. A random model has to learn
this from its few training solutions, which leaves little for the actual task: which program to
write. It is therefore pretrained for some seconds on texts in the step grammar, in which the box
holds the printed number. Their words are random letters, so they contain no question, no code and
nothing of a task.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rstar_math.checkpoints.folders import require_torch, save_checkpoint
from rstar_math.prompts.grammar import TAGS
from rstar_math.seeding import derive
from rstar_math.types import Execution, ExecutionStatus, Step

_BATCH_SIZE = 16
"""Texts per optimizer step."""
_LEARNING_RATE, _WARMUP_STEPS, _WEIGHT_DECAY = 3e-3, 20, 0.1
_DIGITS = (1, 2, 2, 2, 2, 3)
"""Numbers of digits of the copied numbers, as a distribution to draw from."""


def copying_texts(seed: int = 0) -> Iterator[tuple[str, str]]:
    """An infinite stream of (context, continuation) texts, the same for the same seed.

    The context is a block of random words and the number it printed; the continuation is an answer
    with that number.
    """
    number = 0
    while True:
        rng = random.Random(derive(seed, "copying", number))
        number += 1
        words = ("".join(rng.choices(ascii_lowercase, k=rng.randint(2, 6))) for _ in range(3))
        value = str(rng.randrange(10 ** rng.choice(_DIGITS)))
        printed = Execution(ExecutionStatus.OK, f"{value}\n")
        block = [Step(f"# {' '.join(words)}\n", "", kind="code", execution=printed)]
        answer = Step(f"The answer is \\boxed{{{value}}}.", kind="answer", answer=value)
        context = TAGS.render(block)
        yield context, TAGS.render([*block, answer])[len(context) :]


def pretrain(model: Any, tokenizer: Any, steps: int, *, seed: int = 0) -> float:
    """Train a causal language model on `copying_texts`; returns the last loss, in nats per token.

    On a CPU equal arguments give equal weights.
    """
    import torch

    texts = copying_texts(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    loss = torch.zeros(())
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            warmup = min(1.0, (step + 1) / _WARMUP_STEPS)
            group["lr"] = _LEARNING_RATE * warmup * (1 - step / steps)
        ids, labels = _encode_batch(tokenizer, [next(texts) for _ in range(_BATCH_SIZE)])
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return float(loss.detach())


def _encode_batch(tokenizer: Any, texts: list[tuple[str, str]]) -> tuple[Any, Any]:
    """Token ids and labels (B, L), padded at the end. Only continuations have labels."""
    import torch

    rows = [
        (tokenizer(context).input_ids, tokenizer(continuation).input_ids)
        for context, continuation in texts
    ]
    length = max(len(context) + len(continuation) for context, continuation in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for row, (context, continuation) in enumerate(rows):
        end = len(context) + len(continuation)
        ids[row, :end] = torch.tensor([*context, *continuation])
        labels[row, len(context) : end] = torch.tensor(continuation)
    return ids, labels


_TOKENIZER_TEXTS = (
    "Question: What is 1 + 2?\n<code>\n# Add.\nprint(1 + 2)\n<code/>\n<output>\n3\n</output>",
)
"""Texts that every tokenizer is trained on, besides those of the caller."""


def save_tiny_policy(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 32,
    layers: int = 2,
    vocabulary: int = 320,
    weight_std: float = 0.02,
    head_size: int | None = None,
    texts: Sequence[str] = (),
    copying_steps: int = 0,
) -> Path:
    """Write the checkpoint of a random Llama to `folder` and return the folder.

    `size` is the hidden size, `vocabulary` the maximum number of tokens, learned from `texts`.
    `weight_std` is the standard deviation of the initial weights. At hidden size 64 a model with
    0.1 learns at once; with the usual 0.02 it does not. `head_size` is the size of each of the 4
    attention heads (default: size / 4; vLLM on a CPU requires 32). With `copying_steps` the model
    is pretrained for that many steps to copy numbers. Equal arguments give equal checkpoints.

    Raises `MissingDependencyError` without torch and transformers, `InputError` if the folder
    exists.
    """
    require_torch()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _train_tokenizer(vocabulary, (*_TOKENIZER_TEXTS, *texts))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_size or size // 4,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=weight_std,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if copying_steps:
        pretrain(model, tokenizer, copying_steps, seed=seed)
    with save_checkpoint(folder, {"kind": "tiny"}) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
    return folder


def _train_tokenizer(vocabulary: int, texts: Sequence[str]) -> Any:
    """A byte-level BPE tokenizer trained on texts, with at most `vocabulary` tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>"
    )
