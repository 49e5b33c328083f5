"""Process reward models on vLLM give the scores of a plain run of the whole model:

    RSTAR_VLLM='/path/to/venv/bin/vllm serve' \\
        pytest -m 'live and slow' -s tests/integration/scorers/test_served_rewards.py

On a CPU a server takes about a minute to start; there are eight.
"""

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from rstar_math.checkpoints.headless import write_backbone
from rstar_math.config import load_config
from rstar_math.config.sections import ServersConfig
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError
from rstar_math.llm.vllm_servers import keep_servers, reward_server
from rstar_math.scorers.prm import PairScorer, PrmScorer, load_prm
from tests.integration.scorers.test_local_rewards import ASKED, thoughts
from tests.integration.scorers.tiny_rewards import STEPS, TINY, WRONG, save_tiny_reward

live = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(1200)]
SMALL = (
    *("--dtype", "float32", "--enforce-eager", "--max-model-len", "1024", "--block-size", "32"),
    *("--gpu-memory-utilization", "0.1", "--no-enable-chunked-prefill"),
    *("--max-num-batched-tokens", "8192"),
)


@dataclass(frozen=True)
class Serving:
    """How vLLM serves a tiny model: a format, and options."""

    format: str
    args: tuple[str, ...] = ()
    head: bool = False
    """Whether the server has the model without its head."""


SERVINGS = {
    "qwen-prm": Serving("qwen-prm", ("--pooler-config", '{"step_tag_id": 3}')),
    "qwen-prm-states": Serving("qwen-prm", ("--convert", "embed"), head=True),
    "qwen-rm": Serving("qwen-rm"),
    "trl": Serving("trl"),
    "skywork-prm": Serving("skywork-prm", ("--convert", "embed"), head=True),
    "classifier": Serving("classifier"),
    "math-shepherd": Serving("math-shepherd", ("--enable-prompt-tokens-details",)),
    "rlhflow": Serving("rlhflow", ("--enable-prompt-tokens-details",)),
}


def compare(served: str, folder: Path, serving: Serving, args: tuple[str, ...]) -> None:
    settings = ["search.scorer=prm", f"search.prm={served}", "search.prm_aggregation=mean"]
    settings += [f"search.prm_format={serving.format}", f"servers.ppm={json.dumps(args)}"]
    settings += [f"search.prm_head={folder}"] if serving.head else []

    async def work() -> None:
        scorer = await load_prm(load_config(None, settings))
        assert isinstance(scorer, PrmScorer)
        try:
            with track_cost() as cost:
                found = await scorer.step_probabilities(ASKED, [thoughts(STEPS), thoughts(WRONG)])
            for row, texts in zip(found, (STEPS, WRONG), strict=True):
                assert row is not None
                assert row == pytest.approx(TINY[serving.format].plain(folder, texts), abs=1e-4)
            assert cost.scorer_tokens > 0
            with track_cost() as again:
                await scorer.score(ASKED, [thoughts(STEPS)])
            assert again.scorer_tokens == 0
            print(f"\n{serving.format}: {cost.scorer_tokens} tokens read")
        finally:
            await scorer.aclose()

    asyncio.run(work())


@pytest.mark.parametrize("name", [pytest.param(name, marks=live) for name in SERVINGS])
def test_each_route_of_vllm_gives_the_plain_scores(name: str, tmp_path: Path) -> None:
    if not os.environ.get("RSTAR_VLLM"):
        pytest.skip("name vLLM's command line in RSTAR_VLLM")
    serving = SERVINGS[name]
    folder = save_tiny_reward(serving.format, tmp_path)
    served = write_backbone(folder, tmp_path / "backbone") if serving.head else folder
    compare(f"vllm:{served}", folder, serving, (*SMALL, *serving.args))


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_reranker_scores_pairs(tmp_path: Path) -> None:
    if not os.environ.get("RSTAR_VLLM"):
        pytest.skip("name vLLM's command line in RSTAR_VLLM")
    folder = save_tiny_reward("classifier", tmp_path)
    servers = ServersConfig(ppm=SMALL)

    async def work() -> None:
        async with keep_servers():
            lease = await reward_server(f"vllm:{folder}", servers, pooling=True)
            os.environ["RSTAR_TEST_KEY"] = lease.key
            settings = [f"search.prm={lease.urls[0]}", "search.prm_format=reranker"]
            config = load_config(None, [*settings, "model.api_key_env=RSTAR_TEST_KEY"])
            scorer = await load_prm(config)
            assert isinstance(scorer, PairScorer)
            values = await scorer.score(ASKED, [thoughts(STEPS), thoughts(WRONG)])
            assert all(-1 <= value <= 1 for value in values)
            assert values[0] != values[1]
            await scorer.aclose()
            await lease.release()

    asyncio.run(work())


def test_a_backbone_has_all_weights_but_the_head(tmp_path: Path) -> None:
    from rstar_math.checkpoints.tensors import WeightFiles

    for name in ("skywork-prm", "qwen-prm"):
        folder = save_tiny_reward(name, tmp_path)
        out = write_backbone(folder, tmp_path / f"{name}-backbone")
        before, after = WeightFiles(folder), WeightFiles(out)
        gone = set(before) - set(after)
        assert gone
        assert all(key.startswith(("v_head.", "score.")) for key in gone)
        assert all((before[key] == after[key]).all() for key in after)
        assert json.loads((out / "config.json").read_text())["architectures"] == [
            "Qwen2ForCausalLM"
        ]
        from transformers import AutoModelForCausalLM, AutoTokenizer

        AutoTokenizer.from_pretrained(out)
        _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]


def test_a_route_that_does_not_fit_says_so(tmp_path: Path) -> None:
    from tests.integration.training.pooling import pooling

    folder = save_tiny_reward("classifier", tmp_path)
    with pooling(folder) as (url, server):
        for settings in (["search.prm_format=skywork-prm"], ["search.prm_route=/embeddings"]):
            config = load_config(
                None, [f"search.prm={url}", "search.prm_format=classifier", *settings]
            )
            with pytest.raises(ConfigError, match="prm_head"):
                asyncio.run(load_prm(config))
        plain = [
            [2 * p - 1 for p in TINY["classifier"].plain(folder, texts)] for texts in (STEPS, WRONG)
        ]

        async def values() -> list[float]:
            config = load_config(None, [f"search.prm={url}", "search.prm_format=classifier"])
            scorer = await load_prm(config)
            try:
                return await scorer.score(ASKED, [thoughts(STEPS), thoughts(WRONG)])
            finally:
                await scorer.aclose()

        assert asyncio.run(values()) == pytest.approx([row[-1] for row in plain], abs=1e-4)
        assert "/classify" in server.routes
