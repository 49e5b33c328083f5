"""Tiny random models of the families that are deployed, each with a tokenizer of its kind."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    "llama3": WORDS + r"\p{N}{1,3}" + END,
    "qwen2": WORDS + r"\p{N}" + END,
    "tekken": TEKKEN,
}
CORPUS = [
    "Question: What is 12 + 345? The answer is 357, of course; isn't it?\n",
    "<code>\n# Add the numbers.\nfor x in range(10):\n    total += x\nprint(total)\n<code/>\n",
    "A café costs 3 € and 50 ¢ more than naïve people think. The total was 1234567.\n\n",
    "HelloWorld camelCase SHOUTING they're we'll I'd   several   spaces\tand tabs\r\n",
]
TEXTS = [
    "Question: What is 1234567 + 89?",
    "two  spaces,   three,     five\n\n\n  and an indent",
    "<code>\nfor i in range(3):\n    print(i, end='')\n<code/>\n",
    "café naïve ½ 漢字 🙂 ﬁ Ω",
    "I'll say THEY'RE camelCase done.\r\n\ttab x_1=2**3//4",
    "12 345 6789",
    "trailing space ",
]
"""What both must cut alike."""


@dataclass(frozen=True)
class Tiny:
    """A family's tiny model."""

    model: str
    """Prefix of transformers' classes."""
    tokenizer: str
    config: dict[str, Any] = field(default_factory=dict)
    texts: Sequence[str] = ()
    """More that both must cut alike."""


SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.15,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.3, 1.5, 1.8, 2.0],
    "long_factor": [2.0, 2.5, 3.0, 3.5, 4.0, 4.5],
    "original_max_position_embeddings": 256,
}
LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 3,
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}
CHAT = ["<|user|>\nWhat is 2 + 3?<|end|>\n<|assistant|>\n", "a<|end|>  b"]
FAMILIES = {
    "llama": Tiny("Llama", "llama3", {"rope_parameters": LLAMA3_ROPE, "attention_bias": True}),
    "llama-spm": Tiny("Llama", "prepend", {}, ["  two before", "a<s>b", " one before"]),
    "smollm": Tiny("Llama", "smollm", {"tie_word_embeddings": True}),
    "llama-gpt2": Tiny("Llama", "gpt2", {"rope_parameters": LINEAR_ROPE, "mlp_bias": True}),
    "mistral": Tiny("Mistral", "tekken", {"head_dim": 32, "sliding_window": None}),
    "mistral-spm": Tiny("Mistral", "metaspace", {"sliding_window": 256}),
    "qwen2": Tiny("Qwen2", "qwen2"),
    "qwen2-tied": Tiny("Qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3-yarn": Tiny("Qwen3", "qwen2", {"head_dim": 32, "rope_parameters": YARN}),
    "llama-yarn": Tiny("Llama", "llama3", {"rope_parameters": YARN}),
    "qwen3": Tiny("Qwen3", "qwen2", {"head_dim": 32}),
    "gemma3": Tiny("Gemma3", "gemma", GEMMA3, ["  two before", "a<mark>b", "x<bos> y"]),
    "phi3": Tiny("Phi3", "phi3", {"rope_parameters": LONG_ROPE}, CHAT),
}


def save_tiny(folder: Path, name: str, *, seed: int = 0) -> Path:
    """A random policy of a family in a folder, with its tokenizer."""
    import torch
    import transformers
    from torch import nn

    tiny = FAMILIES[name]
    fast = tiny_tokenizer(tiny.tokenizer)
    text = "Text" if tiny.model == "Gemma3" else ""
    sizes = SIZES | {"vocab_size": len(fast) + 3, "pad_token_id": fast.pad_token_id}
    sizes |= {"eos_token_id": fast.eos_token_id, "bos_token_id": fast.bos_token_id} | tiny.config
    if tiny.model == "Phi3":
        sizes |= {"original_max_position_embeddings": 256}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{tiny.model}{text}Config")(**sizes)
    model = getattr(transformers, f"{tiny.model}ForCausalLM")(config)
    with torch.no_grad():
        for key, weights in model.named_parameters():
            if key.endswith(("norm.weight", "bias")):
                weights += 0.3 * nn.init.normal_(torch.empty_like(weights))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def save_adapted(base: Path, folder: Path, *, scorer: bool = False, rank: int = 4) -> Path:
    """A model that was made from a policy with a random adapter, in the layout of rstar train: the
    merged weights, and the adapter beside them."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    options: dict[str, Any] = {"dtype": torch.float32}
    torch.manual_seed(1)
    if scorer:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, **options)
    else:
        model = AutoModelForCausalLM.from_pretrained(base, **options)
    settings = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        task_type="SEQ_CLS" if scorer else "CAUSAL_LM",
        init_lora_weights=False,
    )
    adapted = get_peft_model(model, settings)
    with torch.no_grad():
        for key, weights in adapted.named_parameters():
            if "lora_" in key:
                weights *= 0.5
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def tiny_tokenizer(kind: str) -> Any:
    """A tokenizer trained on a few sentences; 512 tokens or so."""
    from transformers import PreTrainedTokenizerFast

    if kind in ("prepend", "metaspace", "gemma", "phi3"):
        tokenizer, special = _sentencepiece(kind)
    else:
        tokenizer, special = _byte_level(kind)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _byte_level(kind: str) -> tuple[Any, dict[str, str]]:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, processors, trainers
    from tokenizers import pre_tokenizers as cut

    tokenizer = Tokenizer(models.BPE(ignore_merges=kind in ("llama3", "tekken")))
    plain = cut.ByteLevel(add_prefix_space=False, use_regex=kind not in PATTERNS)
    if kind in PATTERNS:
        words = cut.Split(Regex(PATTERNS[kind]), behavior="isolated")
        tokenizer.pre_tokenizer = cut.Sequence([words, plain])
    elif kind == "smollm":
        tokenizer.pre_tokenizer = cut.Sequence([cut.Digits(individual_digits=True), plain])
    else:
        tokenizer.pre_tokenizer = plain
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "<|im_end|>"],
        initial_alphabet=cut.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    if kind in ("llama3", "tekken"):
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
        )
    special = {"eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return tokenizer, special | ({"bos_token": "<s>"} if kind in ("llama3", "tekken") else {})


def _sentencepiece(kind: str) -> tuple[Any, dict[str, str]]:
    """BPE with byte fallback and every pair that makes a token among its merges, as one that was
    converted from SentencePiece has it."""
    from tokenizers import AddedToken, Tokenizer, models, processors, trainers
    from tokenizers import normalizers as change
    from tokenizers import pre_tokenizers as cut

    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = cut.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=260, show_progress=False)
    draft.train_from_iterator([*CORPUS * 3, "     "], trainer)
    begin, end = ("<bos>", "<eos>") if kind == "gemma" else ("<s>", "</s>")
    learned = sorted(draft.get_vocab().items(), key=lambda entry: entry[1])
    pieces = ["<unk>", begin, end, *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [text for text, _ in learned]
    vocab = {text: index for index, text in enumerate(pieces)}
    merges = [
        (text[:at], text[at:])
        for text, _ in learned
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    spaces = change.Replace(" ", "▁")
    if kind == "metaspace":
        tokenizer.pre_tokenizer = cut.Metaspace(prepend_scheme="first", split=False)
    elif kind == "gemma":
        tokenizer.normalizer = spaces
        tokenizer.pre_tokenizer = cut.Split(" ", behavior="merged_with_previous")
        tokenizer.add_tokens([AddedToken("<mark>", normalized=False)])
    else:
        tokenizer.normalizer = change.Sequence([change.Prepend("▁"), spaces])
    tokenizer.add_special_tokens(["<unk>", begin])
    tokenizer.add_special_tokens([AddedToken(end, rstrip=kind == "phi3", special=True)])
    if kind == "phi3":
        tokenizer.add_special_tokens(["<|endoftext|>"])
        swallowing = ("<|user|>", "<|end|>", "<|assistant|>")
        tokenizer.add_special_tokens([AddedToken(one, rstrip=True) for one in swallowing])
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A $B", special_tokens=[(begin, 1)]
        )
    return tokenizer, {"unk_token": "<unk>", "bos_token": begin, "eos_token": end, "pad_token": end}
