"""A tiny policy, made on the spot: a Llama, random or taught to copy, and a tokenizer of bytes with
a few merges."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rstar_math.models.checkpoints import require_torch, writing
from rstar_math.testing.pretraining import pretrain

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
    steps to answer with a number it has read (`testing.pretraining`). The same for the same
    arguments.

    Raises `MissingExtra` without torch and transformers, `InputError` where the folder is there.
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
    with writing(folder, {"kind": "tiny"}) as part:
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
