"""Tiny random process reward models of each published architecture, and their scores computed
plainly: the whole conversation once through the whole model, read at the places that the authors
name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip(
    "torch", reason="reward models need torch: pip install rstar-math[train]"
)

QUESTION = "Ann has 3 apples and buys 12 more. How many apples does she have?"
STEPS = [
    "Ann starts with 3 apples.",
    "She buys 12 more, so add: 3 + 12 = 15.",
    "The answer is \\boxed{15}.",
]
WRONG = [STEPS[0], "She buys 12 more, so subtract: 12 - 3 = 9.", "The answer is \\boxed{9}."]
SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."
_CORPUS = [QUESTION, *STEPS, *WRONG, SYSTEM, "Step 1: ки\nStep 2: + - + - user assistant system"]
_SPECIAL = {
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"],
    "llama3": [
        "<|end_of_text|>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
    ],
}
_SIZES: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
}
Plain = Callable[[Path, Sequence[str]], list[float]]


@dataclass(frozen=True)
class TinyReward:
    """A tiny model: how it is saved, and its plain scores in [0, 1], one per step."""

    save: Callable[[Path], None]
    plain: Plain


def _byte_tokenizer(kind: str) -> Any:
    """A byte-level tokenizer with the special tokens of a family."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = _SPECIAL[kind]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS * 3, trainer)
    names = {"eos_token": special[0], "pad_token": special[0]}
    if kind == "llama3":
        begin = tokenizer.token_to_id(special[1])
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{special[1]} $A", special_tokens=[(special[1], begin)]
        )
        names["bos_token"] = special[1]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _sentencepiece_tokenizer() -> Any:
    """A tokenizer as Mistral's: pieces with "▁" for blanks, bytes for what it does not know."""
    from tokenizers import Tokenizer, decoders, models, processors
    from tokenizers import pre_tokenizers as cut
    from tokenizers import trainers as train
    from transformers import PreTrainedTokenizerFast

    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = cut.Metaspace(prepend_scheme="first")
    trainer = train.BpeTrainer(vocab_size=260, show_progress=False)
    lines = [line for text in _CORPUS for line in text.split("\n")]
    draft.train_from_iterator([*lines * 3, *["a ки"] * 9, *["+ - + -"] * 9], trainer)
    learned = [text for text, _ in sorted(draft.get_vocab().items(), key=lambda entry: entry[1])]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocab = {text: index for index, text in enumerate(pieces)}
    merges = [
        (text[:at], text[at:])
        for text in learned
        for at in range(1, len(text))
        if text[:at] in vocab and text[at:] in vocab
    ]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.pre_tokenizer = cut.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )


def _config(family: str, tokenizer: Any, **more: Any) -> Any:
    import transformers

    sizes = {**_SIZES, "vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **more}
    sizes |= {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    return getattr(transformers, f"{family}Config")(**sizes)


def _shaken(model: Any) -> Any:
    """The model with random norms and biases, as a trained one has."""
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                weights += 0.2 * torch.randn_like(weights)
    return model


def _save_reward_model(folder: Path, architecture: str, outputs: int) -> None:
    """Qwen's layout: the backbone, and a head of two layers under other names than any class of
    transformers has."""
    import json

    from safetensors.torch import load_file, save_file
    from transformers import Qwen2ForCausalLM

    torch.manual_seed(3)
    tokenizer = _byte_tokenizer("qwen")
    model = _shaken(Qwen2ForCausalLM(_config("Qwen2", tokenizer, tie_word_embeddings=False)))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    size = _SIZES["hidden_size"]
    weights["score.0.weight"] = torch.randn(size, size) / size**0.5
    weights["score.0.bias"] = torch.randn(size)
    weights["score.2.weight"] = torch.randn(outputs, size) / size**0.5
    weights["score.2.bias"] = torch.randn(outputs)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [architecture]
    config["auto_map"] = {"AutoModel": f"modeling_qwen2_rm.{architecture}"}
    (folder / "config.json").write_text(json.dumps(config))


def _states(folder: Path, ids: Sequence[int]) -> Any:
    """The last hidden states (L, H) of a backbone."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).last_hidden_state[0]


def _two_layers(folder: Path, states: Any) -> Any:
    from safetensors.torch import load_file

    weights = load_file(folder / "model.safetensors")
    hidden = torch.relu(states @ weights["score.0.weight"].T + weights["score.0.bias"])
    return hidden @ weights["score.2.weight"].T + weights["score.2.bias"]


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _chatml(answer: str) -> str:
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n"
        f"<|im_start|>assistant\n{answer}<|im_end|>\n"
    )


def _qwen_prm(folder: Path, steps: Sequence[str]) -> list[float]:
    tokenizer = _tokenizer(folder)
    ids = tokenizer(_chatml("".join(f"{step}<extra_0>" for step in steps))).input_ids
    mark = tokenizer.convert_tokens_to_ids("<extra_0>")
    probabilities = torch.softmax(_two_layers(folder, _states(folder, ids)), dim=-1)[:, 1]
    return [float(probabilities[at]) for at, token in enumerate(ids) if token == mark]


def _qwen_rm(folder: Path, steps: Sequence[str]) -> list[float]:
    found = []
    for end in range(1, len(steps) + 1):
        ids = _tokenizer(folder)(_chatml("\n\n".join(steps[:end]))).input_ids
        raw = _two_layers(folder, _states(folder, ids))[-1, 0]
        found.append(float((1 + torch.tanh(raw)) / 2))
    return found


def _save_causal(folder: Path, family: str, tokenizer: Any, **more: Any) -> None:
    import transformers

    torch.manual_seed(5)
    make = getattr(transformers, f"{family}ForCausalLM")
    _shaken(make(_config(family, tokenizer, **more))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _next_tokens(folder: Path, ids: Sequence[int]) -> Any:
    """The logits (L, V) of a language model."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return model(torch.tensor([list(ids)])).logits[0]


def _math_shepherd(folder: Path, steps: Sequence[str]) -> list[float]:
    tokenizer = _tokenizer(folder)
    good, bad = tokenizer("+ -", add_special_tokens=False).input_ids[-2:]
    mark = tokenizer("a ки", add_special_tokens=False).input_ids[-1]
    text = "\n".join(f"Step {n}: {step} ки" for n, step in enumerate(steps, start=1))
    ids = tokenizer(f"{QUESTION} {text}").input_ids
    scores = torch.softmax(_next_tokens(folder, ids)[:, [good, bad]], dim=-1)[:, 0]
    return [float(scores[at]) for at, token in enumerate(ids) if token == mark]


_HEADER = "<|start_header_id|>{}<|end_header_id|>\n\n"


def _rlhflow(folder: Path, steps: Sequence[str]) -> list[float]:
    tokenizer = _tokenizer(folder)
    good, bad = (tokenizer(sign).input_ids[-1] for sign in "+-")
    system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"
    text, found = f"{_HEADER.format('system')}{system}<|eot_id|>", []
    for number, step in enumerate(steps):
        said = f"{QUESTION} {step}" if number == 0 else step
        text += f"{_HEADER.format('user')}{said}<|eot_id|>{_HEADER.format('assistant')}+<|eot_id|>"
        logits = _next_tokens(folder, tokenizer(text).input_ids)[-3, [good, bad]]
        found.append(float(torch.softmax(logits, dim=-1)[0]))
    return found


def _save_skywork(folder: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    _save_causal(folder, "Qwen2", _byte_tokenizer("qwen"), tie_word_embeddings=False)
    weights = load_file(folder / "model.safetensors")
    weights["v_head.summary.weight"] = torch.randn(1, _SIZES["hidden_size"]) / 6
    weights["v_head.summary.bias"] = torch.randn(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["Qwen2ForPrmModel"]
    (folder / "config.json").write_text(json.dumps(config))


def _skywork(folder: Path, steps: Sequence[str]) -> list[float]:
    from safetensors.torch import load_file

    tokenizer = _tokenizer(folder)
    mark = tokenizer("\n").input_ids[-1]
    ids, ends = list(tokenizer(f"{QUESTION}\n").input_ids), []
    for step in steps:
        ids += [*tokenizer(step).input_ids, mark]
        ends.append(len(ids) - 1)
    weights = load_file(folder / "model.safetensors")
    raw = _states(folder, ids) @ weights["v_head.summary.weight"].T + weights["v_head.summary.bias"]
    return [float(torch.sigmoid(raw[end, 0])) for end in ends]


def _save_classifier(folder: Path, kind: str, labels: int) -> None:
    import transformers

    torch.manual_seed(7)
    tokenizer = _byte_tokenizer("qwen" if kind == "TokenClassification" else "llama3")
    family = "Qwen2" if kind == "TokenClassification" else "Llama"
    config = _config(family, tokenizer, num_labels=labels)
    model = _shaken(getattr(transformers, f"{family}For{kind}")(config))
    with torch.no_grad():
        model.score.weight.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _trl(folder: Path, steps: Sequence[str]) -> list[float]:
    from transformers import AutoModelForTokenClassification

    tokenizer = _tokenizer(folder)
    ids, ends = list(tokenizer(QUESTION, add_special_tokens=False).input_ids), []
    for step in steps:
        ids += tokenizer(step, add_special_tokens=False).input_ids
        ids += tokenizer("\n", add_special_tokens=False).input_ids
        ends.append(len(ids) - 1)
    model = AutoModelForTokenClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        scores = torch.softmax(model(torch.tensor([ids])).logits[0], dim=-1)[:, 1]
    return [float(scores[end]) for end in ends]


def _classifier(folder: Path, steps: Sequence[str]) -> list[float]:
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for end in range(1, len(steps) + 1):
        text = f"Question: {QUESTION}\n" + "\n\n".join(steps[:end])
        ids = _tokenizer(folder)(text).input_ids
        with torch.inference_mode():
            raw = model(torch.tensor([ids])).logits[0, 0]
        found.append(float((1 + torch.tanh(raw)) / 2))
    return found


TINY: dict[str, TinyReward] = {
    "qwen-prm": TinyReward(
        lambda folder: _save_reward_model(folder, "Qwen2ForProcessRewardModel", 2), _qwen_prm
    ),
    "math-shepherd": TinyReward(
        lambda folder: _save_causal(
            folder, "Mistral", _sentencepiece_tokenizer(), sliding_window=None
        ),
        _math_shepherd,
    ),
    "rlhflow": TinyReward(
        lambda folder: _save_causal(folder, "Llama", _byte_tokenizer("llama3")), _rlhflow
    ),
    "skywork-prm": TinyReward(_save_skywork, _skywork),
    "trl": TinyReward(lambda folder: _save_classifier(folder, "TokenClassification", 2), _trl),
    "qwen-rm": TinyReward(
        lambda folder: _save_reward_model(folder, "Qwen2ForRewardModel", 1), _qwen_rm
    ),
    "classifier": TinyReward(
        lambda folder: _save_classifier(folder, "SequenceClassification", 1), _classifier
    ),
}
"""The tiny models by the name of their format."""


def save_tiny_reward(name: str, root: Path) -> Path:
    """The folder of a tiny model, whose name is the format's."""
    folder = root / name
    TINY[name].save(folder)
    return folder
