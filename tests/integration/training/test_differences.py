"""What several trainings left in the weights, as one adapter of the model they began from, and that
adapter put back into the weights."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.checkpoints.gguf_adapters import (
    apply_adapter,
    check_adapter,
    extract_adapter,
    repack_weights,
    write_adapter,
)
from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.checkpoints.tensors import read_header
from rstar_math.cli import app
from rstar_math.errors import ConfigError, InputError
from rstar_math.models.loading import load_policy
from rstar_math.ppm.remote import RemotePPM
from rstar_math.training.rows import solution_row
from rstar_math.training.settings import PolicyTraining, PreferenceTraining
from tests.integration.training.test_deploying import furthest
from tests.integration.training.test_preference_training import ROWS as PAIRS
from tests.unit.training.tiny import question, save_tiny_policy, solution

STEPS: dict[str, Any] = {"learning_rate": 0.03, "max_steps": 2, "batch_size": 8, "bf16": False}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a policy that was trained from it twice by adapters of rank 2, a
    preference model of that, a policy trained in full, and one whose matrices were."""
    from rstar_math.training.preference import train_preference
    from rstar_math.training.sft import train_policy

    root = tmp_path_factory.mktemp("rounds")
    save_tiny_policy(root / "base")
    write_gguf(root / "base", root / "base.gguf", kind="f32")
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    light, full = PolicyTraining(lora_rank=2, **STEPS), PolicyTraining(**STEPS)
    most = PolicyTraining(matrices_only=True, **STEPS)
    train_policy(rows, str(root / "base"), root / "once", light)
    train_policy(rows[:4], str(root / "once"), root / "twice", light)
    train_policy(rows, str(root / "base"), root / "full", full)
    train_policy(rows, str(root / "base"), root / "most", most)
    scoring = PreferenceTraining(lora_rank=2, **STEPS)
    train_preference(PAIRS[:24], str(root / "twice"), root / "ppm", scoring)
    return root


def test_two_trainings_become_one_adapter(rounds: Path, tmp_path: Path) -> None:
    base = rounds / "base.gguf"
    exact, cut = tmp_path / "exact.gguf", tmp_path / "cut.gguf"
    held = extract_adapter(rounds / "twice", exact, base=str(base), rank=4, kind="f32")
    assert held == pytest.approx(1.0, abs=1e-6)
    assert furthest(base, rounds / "twice") > 0.1
    assert furthest(base, rounds / "twice", exact) < 1e-2
    less = extract_adapter(rounds / "twice", cut, base=str(base), rank=1, kind="f32")
    assert 0.25 < less < 0.999
    assert furthest(base, rounds / "twice", cut) > furthest(base, rounds / "twice", exact)
    small = tmp_path / "small.gguf"
    extract_adapter(rounds / "twice", small, base=str(base), rank=16, kind="q8_0")
    assert furthest(base, rounds / "twice", small) < 0.2
    facts = read_header(cut).metadata
    assert facts["rstar.base"] == "base.gguf"
    assert facts["adapter.lora.alpha"] == 1.0


def test_matrices_trained_without_an_adapter_become_one(rounds: Path, tmp_path: Path) -> None:
    base, out = rounds / "base.gguf", tmp_path / "most.gguf"
    held = extract_adapter(rounds / "most", out, base=str(base), rank=16, kind="f32")
    assert 0.5 < held < 0.9999, "what full training changes is of full rank"
    nearer = furthest(base, rounds / "most", out)
    assert nearer < furthest(base, rounds / "most") / 2


def test_an_adapter_put_into_the_weights_is_the_trained_model(rounds: Path, tmp_path: Path) -> None:
    base, adapter = rounds / "base.gguf", tmp_path / "adapter.gguf"
    extract_adapter(rounds / "twice", adapter, base=str(base), rank=4)
    repack_weights(base, tmp_path / "merged.gguf", adapter)
    small = write_gguf(rounds / "twice", tmp_path / "small.gguf")
    far = furthest(tmp_path / "merged.gguf", rounds / "twice")
    assert far < max(0.2, 2 * furthest(small, rounds / "twice"))
    repack_weights(base, tmp_path / "same.gguf")
    assert furthest(tmp_path / "same.gguf", rounds / "base") < 1e-2


def test_an_adapter_is_put_into_the_weights_that_training_begins_with(
    rounds: Path, tmp_path: Path
) -> None:
    base, adapter = rounds / "base.gguf", tmp_path / "adapter.gguf"
    extract_adapter(rounds / "twice", adapter, base=str(base), rank=4, kind="f32")
    before, after, model = (
        load_policy(str(x))[0] for x in (rounds / "base", rounds / "twice", rounds / "base")
    )
    apply_adapter(adapter, model)
    weights, then, wanted = (dict(one.named_parameters()) for one in (model, before, after))
    assert all(weights[name].allclose(wanted[name], atol=1e-5) for name in wanted)
    moved = sum(not weights[name].equal(then[name]) for name in then)
    assert moved == 14, "seven matrices in each of two layers"


def test_a_preference_model_is_put_into_its_base_with_its_head(
    rounds: Path, tmp_path: Path
) -> None:
    base, adapter = rounds / "base.gguf", tmp_path / "adapter.gguf"
    extract_adapter(rounds / "ppm", adapter, base=str(base), rank=6)
    repack_weights(base, tmp_path / "merged.gguf", adapter)
    whole = write_gguf(rounds / "ppm", tmp_path / "whole.gguf", kind="f32")
    texts = [row.prompt + side for row in PAIRS[:8] for side in (row.chosen, row.rejected)]

    def values(file: Path) -> list[float]:
        async def work() -> list[float | None]:
            model = RemotePPM.load(file)
            try:
                return await model.score_texts(texts)
            finally:
                await model.aclose()

        return [value for value in asyncio.run(work()) if value is not None]

    there, here = values(whole), values(tmp_path / "merged.gguf")
    assert len(there) == len(here) == 16
    assert max(there) - min(there) > 0.05
    assert here == pytest.approx(there, abs=0.05)


def test_what_an_adapter_cannot_hold_is_refused(rounds: Path, tmp_path: Path) -> None:
    base, out = str(rounds / "base.gguf"), tmp_path / "out.gguf"
    wide = write_gguf(save_tiny_policy(tmp_path / "wide", size=64), tmp_path / "wide.gguf")
    for folder, options, match in (
        (rounds / "full", {"base": base}, "an adapter cannot hold"),
        (rounds / "base", {"base": base}, "nothing was trained"),
        (rounds / "once", {"base": base, "rank": 17}, "lower --rank"),
        (rounds / "once", {"base": str(wide)}, "was not trained from"),
        (rounds / "once", {"base": str(tmp_path / "no.gguf")}, "cannot be read"),
    ):
        with pytest.raises(InputError, match=match):
            extract_adapter(folder, out, **options)
    assert not out.exists()


def test_the_command_says_how_much_the_adapter_holds(rounds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ["deploy", str(rounds / "twice"), "--out", str(out), "--base", str(rounds / "base.gguf")]
    told = CliRunner().invoke(app, [*args, "--adapter", "--rank", "4", "--json"])
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["share_of_change"] == pytest.approx(1.0, abs=1e-5)
    with pytest.raises(ConfigError, match="requires --adapter"):
        CliRunner().invoke(app, args, catch_exceptions=False)


def test_an_adapter_on_a_base_in_bfloat16_is_known_as_one_of_that_base(
    rounds: Path, tmp_path: Path
) -> None:
    from rstar_math.training.sft import train_policy

    base, out = rounds / "base.gguf", tmp_path / "half"
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    settings = PolicyTraining(lora_rank=2, base_dtype="bfloat16", **STEPS)
    train_policy(rows, str(rounds / "base"), out, settings)
    write_adapter(out, tmp_path / "adapter.gguf", kind="f32")
    check_adapter(tmp_path / "adapter.gguf", base, kind="policy")
    assert furthest(base, out, tmp_path / "adapter.gguf") < 0.1 * furthest(base, out)
    held = extract_adapter(out, tmp_path / "cut.gguf", base=str(base), rank=4)
    assert held > 0.9, "rounding the base is little next to what was learned"
