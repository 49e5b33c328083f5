"""Models of the hub in the engines that run them."""

import asyncio
import json
from pathlib import Path

import pytest

from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.config import ModelConfig
from rstar_math.errors import InputError
from rstar_math.llm.connect import connect
from rstar_math.models.loading import load_policy
from tests.integration.models.hub_server import Hub, Repo
from tests.unit.training.tiny import save_tiny_policy


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a tiny policy."""
    folder = save_tiny_policy(tmp_path_factory.mktemp("tiny") / "policy")
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def answered(url: str) -> tuple[str, str]:
    """The model's name, and what it writes after a prompt."""

    async def once() -> tuple[str, str]:
        model = await connect(ModelConfig(url=url, context_tokens=256, concurrency=1))
        try:
            (found,) = await model.complete(
                "1 + 2", n=1, stop=["\n"], max_tokens=4, temperature=0, seed=0
            )
            return model.name, found.text
        finally:
            await model.aclose()

    return asyncio.run(once())


def test_a_checkpoint_of_the_hub_runs_in_transformers(
    hub: Hub, checkpoint: dict[str, bytes]
) -> None:
    hub.repos["org/tiny"] = Repo(checkpoint)
    name, first = answered("hf:org/tiny")
    assert name == "org/tiny"
    hub.status = 500  # the second time it is on the disk
    assert answered("HF:org/tiny") == (name, first)


def test_a_gguf_of_the_hub_runs_in_llama_cpp(
    hub: Hub, checkpoint: dict[str, bytes], tmp_path: Path
) -> None:
    folder = tmp_path / "policy"
    folder.mkdir()
    for name, content in checkpoint.items():
        (folder / name).write_bytes(content)
    write_gguf(folder, tmp_path / "tiny-q8_0.gguf")
    hub.repos["org/tiny-GGUF"] = Repo({"q.gguf": (tmp_path / "tiny-q8_0.gguf").read_bytes()})
    name, _ = answered("hf:org/tiny-GGUF")
    assert name == "q"


def test_a_base_of_training_may_be_on_the_hub(hub: Hub, checkpoint: dict[str, bytes]) -> None:
    hub.repos["org/tiny"] = Repo(checkpoint)
    for base in ("hf:org/tiny", "org/tiny"):
        model, tokenizer = load_policy(base)
        assert model.get_input_embeddings().num_embeddings >= len(tokenizer)


def test_code_from_a_repository_is_never_run(
    hub: Hub, checkpoint: dict[str, bytes], places: Path
) -> None:
    marker = places / "ran"
    config = json.loads(checkpoint["config.json"])
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    config["auto_map"]["AutoModelForCausalLM"] = "own.M"
    code = f"open({str(marker)!r}, 'w').close()\nclass C: pass\nclass M: pass\n".encode()
    files = {**checkpoint, "config.json": json.dumps(config).encode(), "own.py": code}
    hub.repos["org/own"] = Repo(files)
    with pytest.raises(InputError, match="org/own"):
        load_policy("hf:org/own")
    assert not marker.exists()
