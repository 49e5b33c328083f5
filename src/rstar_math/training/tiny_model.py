"""A tiny random model for tests and the recipe `smoke`, pretrained to copy numbers.

A language model has seen much text before it is made a policy, and copies a number it has just read
without being taught. A random one has to learn that from its few solutions, and then hardly gets to
what is to be learned: which program to write. So it is shown, for some seconds, texts of the
grammar's shape in which the box holds what was printed. Their words are random letters: there is no
question in them, no code, and nothing of a task.
"""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from rstar_math.checkpoints.folders import require_torch, save_checkpoint
from rstar_math.prompts.grammar import GRAMMAR
from rstar_math.seeding import derive
from rstar_math.types import Execution, ExecutionStatus, Step

BATCH = 16
"""Texts to a step of the optimiser."""
_RATE, _WARMUP, _DECAY = 3e-3, 20, 0.1
_DIGITS = (1, 2, 2, 2, 2, 3)


def copying_texts(seed: int = 0) -> Iterator[tuple[str, str]]:
    """Pairs without end of what is read, a block of random words and the number it printed, and
    of what follows, the answer with that number; the same for the same seed."""
    number = 0
    while True:
        rng = random.Random(derive(seed, "copying", number))
        number += 1
        words = ("".join(rng.choices(ascii_lowercase, k=rng.randint(2, 6))) for _ in range(3))
        value = str(rng.randrange(10 ** rng.choice(_DIGITS)))
        printed = Execution(ExecutionStatus.OK, f"{value}\n")
        block = [Step(f"# {' '.join(words)}\n", "", kind="code", execution=printed)]
        answer = Step(f"The answer is \\boxed{{{value}}}.", kind="answer", answer=value)
        read = GRAMMAR.render(block)
        yield read, GRAMMAR.render([*block, answer])[len(read) :]


def pretrain(model: Any, tokenizer: Any, steps: int, *, seed: int = 0) -> float:
    """Train a causal language model for some steps to answer with the number it has read; the last
    loss, in nats a token. On a CPU the same for the same arguments."""
    import torch

    texts = copying_texts(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=_DECAY)
    loss = torch.zeros(())
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = _RATE * min(1.0, (step + 1) / _WARMUP) * (1 - step / steps)
        ids, labels = _batch(tokenizer, [next(texts) for _ in range(BATCH)])
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    model.eval()
    return float(loss.detach())


def _batch(tokenizer: Any, texts: list[tuple[str, str]]) -> tuple[Any, Any]:
    """Tokens and labels, padded at the end, where a causal model does not look; only what follows
    is trained on."""
    import torch

    rows = [(tokenizer(read).input_ids, tokenizer(answer).input_ids) for read, answer in texts]
    length = max(len(read) + len(answer) for read, answer in rows)
    ids = torch.full((len(rows), length), tokenizer.pad_token_id)
    labels = torch.full((len(rows), length), -100)
    for at, (read, answer) in enumerate(rows):
        end = len(read) + len(answer)
        ids[at, :end] = torch.tensor([*read, *answer])
        labels[at, len(read) : end] = torch.tensor(answer)
    return ids, labels


TEXTS = ("Question: What is 1 + 2?\n<code>\n# Add.\nprint(1 + 2)\n<code/>\n<output>\n3\n</output>",)


def save_tiny_policy(
    folder: Path,
    *,
    seed: int = 0,
    size: int = 32,
    layers: int = 2,
    vocabulary: int = 320,
    spread: float = 0.02,
    head: int | None = None,
    texts: Sequence[str] = (),
    copying: int = 0,
) -> Path:
    """Write the checkpoint of a random Llama with `layers` layers of width `size` and weights of
    standard deviation `spread` (0.1 learns at once at width 64, the usual 0.02 does not), 4 heads
    of width `head` (vLLM needs 32 on a CPU; by default a fourth of `size`), and a tokenizer of at
    most `vocabulary` tokens made from `texts`; the folder. With `copying` it is trained so many
    steps to answer with a number it has read (`training.tiny_model`). The same for the same
    arguments.

    Raises `MissingDependencyError` without torch and transformers, `InputError` where the folder is
    there.
    """
    require_torch()
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = _tokenizer(vocabulary, (*TEXTS, *texts))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=2 * size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head or size // 4,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        tie_word_embeddings=True,
        initializer_range=spread,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    if copying:
        pretrain(model, tokenizer, copying, seed=seed)
    with save_checkpoint(folder, {"kind": "tiny"}) as part:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
    return folder


def _tokenizer(vocabulary: int, texts: Sequence[str]) -> Any:
    """A tokenizer of bytes and of what is frequent in some texts."""
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
