"""Writes a tiny random reward model in the format of a published one, to try the commands with.

    python examples/scorers/tiny_reward_model.py tiny-qwen-prm --format qwen-prm

It has the layers, the names of the weights and the special tokens of the real model, but knows
nothing. Formats: qwen-prm, skywork-prm, rlhflow, classifier. Needs pip install 'rstar-math[train]'.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>", "<|begin_of_text|>"]
SPECIAL += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SIZE = 128
"""Hidden size: 4 heads of 32, the smallest that vLLM runs on a CPU."""


def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with the special tokens of both families."""
    bytes_only = Tokenizer(models.BPE())
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bytes_only.train_from_iterator(["Step 1: 2 + 3 = 5."], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, eos_token=SPECIAL[0], pad_token=SPECIAL[0]
    )


def write(folder: Path, form: str) -> None:
    """Write the checkpoint of a random model."""
    torch.manual_seed(0)
    words = tokenizer()
    sizes: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": SIZE,
        "intermediate_size": 2 * SIZE,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.2,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
    }
    if form == "rlhflow":
        LlamaForCausalLM(LlamaConfig(**sizes)).save_pretrained(folder)
    elif form == "classifier":
        config = LlamaConfig(num_labels=1, **sizes)
        LlamaForSequenceClassification(config).save_pretrained(folder)
    else:
        Qwen2ForCausalLM(Qwen2Config(**sizes)).save_pretrained(folder)
        add_head(folder, form)
    words.save_pretrained(folder)
    print(f"{folder}: a random model in the format {form}")


def add_head(folder: Path, form: str) -> None:
    """Add the head of Qwen2.5-Math-PRM, or the value head of Skywork's models."""
    weights = load_file(folder / "model.safetensors")
    if form == "qwen-prm":
        architecture = "Qwen2ForProcessRewardModel"
        weights["score.0.weight"] = torch.randn(SIZE, SIZE) / SIZE**0.5
        weights["score.0.bias"] = torch.zeros(SIZE)
        weights["score.2.weight"] = torch.randn(2, SIZE) / SIZE**0.5
        weights["score.2.bias"] = torch.zeros(2)
    else:
        architecture = "Qwen2ForPrmModel"
        weights["v_head.summary.weight"] = torch.randn(1, SIZE) / SIZE**0.5
        weights["v_head.summary.bias"] = torch.zeros(1)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = [architecture]
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    forms = ("qwen-prm", "skywork-prm", "rlhflow", "classifier")
    parser.add_argument("--format", choices=forms, default="qwen-prm")
    options = parser.parse_args()
    write(options.folder, options.format)
