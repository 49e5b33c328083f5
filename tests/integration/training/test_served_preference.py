"""One preference model scored four ways gives the same values: transformers in this process,
llama.cpp in this process, hidden states of a server, vLLM's classification."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from rstar_math.checkpoints.folders import COMPLETION_FILE
from rstar_math.checkpoints.gguf_adapters import write_adapter
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.value_heads import ValueHead
from rstar_math.config import load_config
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError, InputError, ModelRejectedError, ModelUnreachableError
from rstar_math.llm.local import EngineSettings, start_llama_cpp
from rstar_math.ppm import remote
from rstar_math.ppm.remote import OpenScorer, RemotePPM, load_scorer
from rstar_math.ppm.scorer import LocalPPM
from rstar_math.prompts.templates import prompt_text, solution_text
from rstar_math.solver.solver import Solver
from rstar_math.testing import ScriptedPolicy
from rstar_math.training.settings import PreferenceTraining
from rstar_math.types import Step
from tests.integration.training.pooling import pooling
from tests.integration.training.test_preference_training import ROWS
from tests.unit.toy import QUESTION, script
from tests.unit.training.tiny import question, save_tiny_policy, solution

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

KEY = "RSTAR_TEST_PPM_KEY"
PREFIXES = [solution(4)[:1], solution(4), solution(4, 99), solution(4)[:2]]


@pytest.fixture(scope="module")
def ppm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preference model trained with LoRA for a few big steps; beside it `policy.gguf`, `ppm.gguf`
    and `adapter.gguf`."""
    from rstar_math.training.preference import train_preference

    root = tmp_path_factory.mktemp("ppm")
    base = save_tiny_policy(root / "policy")
    settings = PreferenceTraining(
        learning_rate=0.01,
        epochs=4,
        batch_size=4,
        micro_batch_size=4,
        bf16=False,
        lora_rank=4,
        max_steps=10,
    )
    train_preference(ROWS[:64], str(base), root / "ppm", settings)
    write_gguf(base, root / "policy.gguf", kind="f32")
    write_gguf(root / "ppm", root / "ppm.gguf", kind="f32")
    write_adapter(root / "ppm", root / "adapter.gguf", kind="f32")
    return root / "ppm"


@pytest.fixture(scope="module")
def plain(ppm: Path) -> list[float]:
    return values(LocalPPM.load(ppm))


def values(scorer: OpenScorer) -> list[float]:
    """What a scorer gives for the prefixes; it is closed."""

    async def work() -> list[float]:
        try:
            return await scorer.score(question(4), PREFIXES)
        finally:
            await scorer.aclose()

    return asyncio.run(work())


def found(*settings: str) -> list[float]:
    """The same of the scorer that a configuration names."""
    config = load_config(None, ["search.scorer=ppm", f"model.api_key_env={KEY}", *settings])

    async def work() -> list[float]:
        scorer = await load_scorer(config)
        try:
            return await scorer.score(question(4), PREFIXES)
        finally:
            await scorer.aclose()

    return asyncio.run(work())


def test_the_values_differ_enough_to_be_compared(plain: list[float]) -> None:
    assert max(plain) - min(plain) > 0.05
    assert max(map(abs, plain)) < 0.95


def test_llama_cpp_gives_what_transformers_gives(ppm: Path, plain: list[float]) -> None:
    assert found(f"search.ppm={ppm.parent}/ppm.gguf") == pytest.approx(plain, abs=1e-2)
    half = write_gguf(ppm, ppm.parent / "half.gguf", kind="f16")
    assert values(RemotePPM.load(half, slots=2)) == pytest.approx(plain, abs=1e-2)


WITHOUT_TORCH = """
import asyncio, sys
sys.modules |= dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "peft"))
from pathlib import Path
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.ppm.remote import RemotePPM
from rstar_math.types import Question

async def work():
    file = write_gguf(Path(sys.argv[1]), Path(sys.argv[2]))
    scorer = RemotePPM.load(file, slots=1)
    found = await scorer.score_texts(["Question: What is 1 + 2?"])
    await scorer.aclose()
    print(found[0])

asyncio.run(work())
"""


def test_writing_and_scoring_need_no_torch(ppm: Path, tmp_path: Path) -> None:
    args = [sys.executable, "-c", WITHOUT_TORCH, str(ppm), str(tmp_path / "ppm.gguf")]
    ended = subprocess.run(args, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert -1.0 < float(ended.stdout) < 1.0


def test_an_adapter_scores_on_its_base(ppm: Path, plain: list[float]) -> None:
    over = (f"search.ppm={ppm.parent}/adapter.gguf", f"model.url={ppm.parent}/policy.gguf")
    assert found(*over) == pytest.approx(plain, abs=1e-2)


def test_an_adapter_made_for_the_embedded_model_goes_onto_that_beside_any_policy(
    ppm: Path, plain: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = tmp_path / "ppm"
    shutil.copytree(ppm, ours)
    notes = json.loads((ours / COMPLETION_FILE).read_text())
    (ours / COMPLETION_FILE).write_text(json.dumps({**notes, "base": "local"}))
    write_adapter(ours, tmp_path / "adapter.gguf", kind="f32")
    asked: list[str] = []

    def weights(model: str) -> Path:
        asked.append(model)
        return ppm.parent / "policy.gguf"

    monkeypatch.setattr(remote, "weights_file", weights)
    place = f"search.ppm={tmp_path}/adapter.gguf"
    assert found(place, "model.url=trained") == pytest.approx(plain, abs=1e-2)
    assert asked == ["local"]


def test_hidden_states_of_a_llama_cpp_server_with_a_head_here(
    ppm: Path, plain: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = ppm.parent / "ppm.gguf"
    server, key = start_llama_cpp(
        file, EngineSettings(slots=2, context_tokens=512, embeddings=True)
    )
    monkeypatch.setenv(KEY, key)
    url = f"search.ppm={server.listening_address}/v1"
    for head in (ppm, file):
        assert found(url, f"search.ppm_head={head}") == pytest.approx(plain, abs=1e-2)
    with pytest.raises(ModelRejectedError, match="has no /classify"):
        found(url)
    monkeypatch.setenv(KEY, "wrong")
    with pytest.raises(ModelRejectedError, match="API key"):
        found(url)


def test_vllm_s_two_ways(ppm: Path, plain: list[float], tmp_path: Path) -> None:
    with pooling(ppm) as (url, server):
        there = f"search.ppm={url}"
        assert found(there) == pytest.approx(plain, abs=1e-5)
        assert found(there, f"search.ppm_head={ppm}") == pytest.approx(plain, abs=1e-5)
        other = write_head(tmp_path, 48)
        with pytest.raises(InputError, match="head reads 48 numbers"):
            found(there, f"search.ppm_head={other}")
        with pytest.raises(InputError, match="no value head"):
            found(there, f"search.ppm_head={ppm.parent}/policy")
        server.obeys = False
        with pytest.raises(ModelRejectedError, match="raw scores"):
            found(there)
        with pytest.raises(ModelRejectedError, match="normalizes"):
            found(there, f"search.ppm_head={ppm}")
        server.routes.discard("/tokenize")
        with pytest.raises(ModelRejectedError, match="/tokenize"):
            found(there)
    with pytest.raises(ModelUnreachableError, match=r"or correct search\.ppm"):
        found(there)


def write_head(folder: Path, size: int) -> Path:
    """A folder with nothing but a head."""
    from safetensors.torch import save_file

    save_file({"score.weight": torch.ones(1, size)}, str(folder / "model.safetensors"))
    return folder


@pytest.mark.live
def test_a_running_vllm(ppm: Path) -> None:
    """Start one with `vllm serve FOLDER --runner pooling --dtype float32` on a folder that
    rstar train ppm wrote, and name both: RSTAR_VLLM_PPM=http://host:port/v1,
    RSTAR_VLLM_PPM_FOLDER=FOLDER."""
    folder = os.environ["RSTAR_VLLM_PPM_FOLDER"]
    plain = values(LocalPPM.load(folder))
    assert found(f"search.ppm={os.environ['RSTAR_VLLM_PPM']}") == pytest.approx(plain, abs=1e-2)


def test_what_is_too_long_is_cut_as_in_this_process(ppm: Path) -> None:
    steps = [Step(prose=f"# Step {n}.\n", code=f"x{n} = {n * n}\n") for n in range(40)]
    file = ppm.parent / "ppm.gguf"

    async def work(scorer: OpenScorer, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        try:
            return await scorer.score(question(1), prefixes)
        finally:
            await scorer.aclose()

    for limit, unscored in ((120, 0), (30, 2)):
        prefixes = [steps, [*steps[:-1], solution(1)[0]]]
        here = asyncio.run(work(LocalPPM.load(ppm, max_tokens=limit), prefixes))
        with track_cost() as cost:
            there = asyncio.run(work(RemotePPM.load(file, slots=1, max_tokens=limit), prefixes))
        assert there == pytest.approx(here, abs=1e-2)
        assert cost.unscorable == unscored
    assert there == [0.0, 0.0]


def test_a_new_node_costs_little_more_than_its_own_tokens(ppm: Path) -> None:
    """Two searches at once, 8 children a layer, of which one is gone on from; texts come too."""
    scorer = RemotePPM.load(ppm.parent / "ppm.gguf", slots=2)

    async def grown(number: int) -> int:
        asked, prefix, own = question(number), tuple[Step, ...](), 0

        async def count(steps: Sequence[Step]) -> int:
            return len(await scorer._backend.tokenize(prompt_text(asked) + solution_text(steps)))

        own += await count(prefix)
        for layer in range(5):
            children = [
                (*prefix, Step(prose=f"# Try {n} in layer {layer}.\n", code=f"x = {n} * {n}\n"))
                for n in range(8)
            ]
            await scorer.score(asked, children)
            own += sum([await count(child) - await count(prefix) for child in children])
            prefix = children[layer]
        return own

    async def work() -> tuple[int, int]:
        try:
            with track_cost() as cost:
                own = sum(await asyncio.gather(grown(1), grown(2)))
            short = prompt_text(question(1)) + solution_text(solution(1))
            assert [value is None for value in await scorer.score_texts([short, short * 90])] == [
                False,
                True,
            ]
            return cost.scorer_tokens, own
        finally:
            await scorer.aclose()

    run, own = asyncio.run(work())
    assert 0.5 * own < run <= 1.4 * own


def test_the_solver_values_steps_with_a_file(ppm: Path) -> None:
    async def both() -> tuple[list[float], list[float]]:
        settings = ["search.scorer=ppm", f"search.ppm={ppm.parent}/ppm.gguf", "search.rollouts=2"]
        async with Solver(load_config(None, settings), policy=ScriptedPolicy(script)) as solver:
            tree = (await solver.solve(QUESTION)).tree
        scored = [index for index, node in enumerate(tree.nodes) if node.score is not None]
        here = LocalPPM.load(ppm)
        again = await here.score(QUESTION, [tree.prefix(index) for index in scored])
        return [tree.nodes[index].score or 0.0 for index in scored], again

    there, here = asyncio.run(both())
    assert len(there) > 3
    assert there == pytest.approx(here, abs=1e-2)


def test_a_head_is_read_from_every_place_alike(ppm: Path, tmp_path: Path) -> None:
    heads = [ValueHead.load(ppm.parent / place) for place in ("ppm", "ppm.gguf", "adapter.gguf")]
    assert heads[0] == heads[1] == heads[2]
    assert heads[0].values([]) == []
    from rstar_math.models.loading import probe_head, save_probe

    head = probe_head(32, 0)
    about: dict[str, object] = {"base": "policy", "hidden": 0, "size": 32, "depth": 2}
    for name, layers in (("last", [-1]), ("first", [1])):
        (tmp_path / name).mkdir()
        save_probe(tmp_path / name, head, {**about, "layers": layers})
    state = torch.randn(32)
    value = torch.tanh(head(state)).item()
    found_here = ValueHead.load(tmp_path / "last").values([state.tolist()])
    assert found_here == [pytest.approx(value, abs=1e-6)]
    with pytest.raises(InputError, match="other layers than the last"):
        ValueHead.load(tmp_path / "first")
    with pytest.raises(ConfigError, match="ppm_head"):
        found(f"search.ppm={ppm}", f"search.ppm_head={ppm}")
