"""Each family of models that is deployed: llama.cpp gives the tokens, the log-probabilities and the
values that transformers gives, for whole models, adapters on their base, and preference models."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rstar_math.checkpoints.gguf_adapters import write_adapter
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.ppm.remote import RemotePPM
from tests.integration.training.families import CORPUS, FAMILIES, TEXTS, save_adapted, save_tiny

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

PROMPT = CORPUS[0] + CORPUS[1]
"""Longer than the windows of the tiny models."""
Post = Callable[[str, dict[str, Any]], dict[str, Any]]


@contextmanager
def served(file: Path, adapter: Path | None = None) -> Iterator[Post]:
    """llama.cpp on a file, with keys and values in float32."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.n_ctx, params.n_parallel, params.port = 256, 1, 0
    params.warmup, params.ui, params.verbosity = False, False, -1
    params.cpuparams.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    if adapter is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
    server = xllamacpp.Server(params)
    with httpx.Client(base_url=server.listening_address, timeout=60) as client:
        yield lambda route, body: dict(client.post(route, json=body).raise_for_status().json())
    del server


def tokens_of(post: Post, text: str) -> list[int]:
    body = {"content": text, "add_special": True, "parse_special": True}
    return list(post("/tokenize", body)["tokens"])


def furthest(post: Post, folder: Path, tokens: Sequence[int]) -> float:
    """The largest difference of log-probabilities to transformers, of the 20 likeliest tokens after
    some prefixes of `tokens`; asserts that the likeliest is the same."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        plain = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    apart = []
    for length in (len(tokens), *range(len(tokens) - 1, 4, -7)):
        body = {"prompt": list(tokens[:length]), "n_predict": 1, "n_probs": 20, "temperature": 0.0}
        said = post("/completion", body)
        if "completion_probabilities" not in said:  # the likeliest token is a part of a character
            continue
        found, row = said["completion_probabilities"][0]["top_logprobs"], plain[length - 1]
        assert found[0]["id"] == int(row.argmax())
        apart += [abs(float(one["logprob"]) - float(row[one["id"]])) for one in found]
    assert len(apart) >= 40
    return max(apart)


@pytest.fixture(scope="module", params=FAMILIES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder named as a family, with its policy, and a policy and a preference model that have a
    random adapter of it; each as a file too."""
    root = tmp_path_factory.mktemp("family") / str(request.param)
    save_tiny(root / "policy", root.name)
    save_adapted(root / "policy", root / "tuned")
    save_adapted(root / "policy", root / "ppm", scorer=True)
    for name in ("policy", "tuned", "ppm"):
        write_gguf(root / name, root / f"{name}.gguf", kind="f32")
    for name in ("tuned", "ppm"):
        write_adapter(root / name, root / f"{name}-adapter.gguf", kind="f32")
    return root


def test_a_policy_has_the_tokens_and_probabilities_of_transformers(made: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(made / "policy")
    with served(made / "policy.gguf") as post:
        for text in (*TEXTS, *FAMILIES[made.name].texts):
            assert tokens_of(post, text) == tokenizer(text).input_ids, text
        assert furthest(post, made / "policy", tokens_of(post, PROMPT)) < 1e-3


def test_an_adapter_on_its_base_is_the_merged_model(made: Path) -> None:
    with served(made / "tuned.gguf") as post:
        tokens = tokens_of(post, PROMPT)
        assert furthest(post, made / "tuned", tokens) < 1e-3
    with served(made / "policy.gguf", made / "tuned-adapter.gguf") as post:
        assert furthest(post, made / "tuned", tokens) < 2e-3
    with served(made / "policy.gguf") as post, pytest.raises(AssertionError):
        assert furthest(post, made / "tuned", tokens) < 0.1


def test_a_preference_model_gives_the_values_of_transformers(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})  # more threads only get in their way
    texts = [PROMPT[:length] for length in (20, 50, 90, 120)]
    tokenizer = AutoTokenizer.from_pretrained(made / "ppm")
    model = AutoModelForSequenceClassification.from_pretrained(
        made / "ppm", dtype=torch.float32
    ).eval()
    with torch.inference_mode():
        plain = [float(model(**tokenizer(text, return_tensors="pt")).logits) for text in texts]
    assert max(plain) - min(plain) > 0.1

    def values(file: Path, **options: str) -> list[float | None]:
        async def work() -> list[float | None]:
            scorer = RemotePPM.load(file, slots=1, max_tokens=200, **options)
            try:
                return await scorer.score_texts(texts)
            finally:
                await scorer.aclose()

        return asyncio.run(work())

    wanted = pytest.approx([math.tanh(one) for one in plain], abs=1e-2)
    assert values(made / "ppm.gguf") == wanted
    assert values(made / "ppm-adapter.gguf", base=str(made / "policy.gguf")) == wanted
