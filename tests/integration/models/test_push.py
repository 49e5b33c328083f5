"""`rstar push` sends models and data to a hub on the loopback, from which they are loaded again."""

import asyncio
import hashlib
import json
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError, InputError, UploadError
from rstar_math.evolution.manifest import ROUND, ManifestStore
from rstar_math.models.downloads import resolve_model
from rstar_math.publishing.contents import public_base
from rstar_math.training.rows import SftRow, solution_row
from tests.integration.models.hub_server import Hub
from tests.integration.test_training_data import made as hand_made
from tests.integration.test_training_data import toy_run
from tests.unit.training.tiny import question, save_tiny_policy, solution
from tests.unit.training.trees import grown

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")

FAST = ("learning_rate=1e-2", "batch_size=4", "bf16=false", "max_steps=2", "lora_rank=2")


def call(*args: object) -> Any:
    """The JSON that a command prints."""
    result = CliRunner().invoke(app, [*map(str, args), "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained policy (an adapter, merged), its .gguf file and a trained PPM."""
    from tests.integration.training.test_preference_training import ROWS

    folder = tmp_path_factory.mktemp("made")
    base = save_tiny_policy(folder / "secret-place" / "base")
    rows = [solution_row(question(n), solution(n)) for n in range(8)]
    (folder / "sft.jsonl").write_text("".join(row.model_dump_json() + "\n" for row in rows))
    (folder / "preference.jsonl").write_text("".join(r.model_dump_json() + "\n" for r in ROWS))
    sets = [part for setting in FAST for part in ("--set", setting)]
    call("train", "policy", folder, "--base", base, "--out", folder / "policy", *sets)
    call("train", "ppm", folder, "--base", base, "--out", folder / "ppm", *sets)
    call("deploy", folder / "policy", "--out", folder / "policy.gguf", "--kind", "f16")
    return folder


def metadata(hub: Hub, repo: str) -> dict[str, Any]:
    """The metadata of a card, as the hub's own client reads it."""
    from huggingface_hub import RepoCard

    card = RepoCard(hub.repos[repo].files["README.md"].decode())
    assert card.text.strip().startswith("# ")
    found: dict[str, Any] = card.data.to_dict()
    return found


LICENCE = ("--licence", "apache-2.0", "--yes")


def test_a_pushed_policy_is_loaded_again_and_names_no_path_of_this_machine(
    hub: Hub, made: Path
) -> None:
    from rstar_math.models.loading import load_policy

    plan = call("push", made / "policy", "Org/policy", "--private", *LICENCE)
    repo = hub.repos["Org/policy"]
    assert repo.private
    assert {file["file"] for file in plan["files"]} == set(repo.files)
    for file in plan["files"]:
        assert hashlib.sha256(repo.files[file["file"]]).hexdigest() == file["sha256"]
    assert all(b"secret-place" not in content for content in repo.files.values())
    card = metadata(hub, "Org/policy")
    assert (card["license"], card["base_model"]) == ("apache-2.0", "base")
    assert card["library_name"] == "transformers"
    assert "rstar-math" in card["tags"]
    loaded, _ = load_policy("hf:Org/policy")
    kept, _ = load_policy(str(made / "policy"))
    states = zip(loaded.state_dict().values(), kept.state_dict().values(), strict=True)
    assert all(bool((one == two).all()) for one, two in states)


def test_a_pushed_ppm_is_loaded_again_with_its_figures_on_the_card(hub: Hub, made: Path) -> None:
    from rstar_math.models.loading import load_value_model

    call("push", made / "ppm", "Org/ppm", *LICENCE)
    card = metadata(hub, "Org/ppm")
    assert card["metrics"] == ["accuracy"]
    assert "reward-model" in card["tags"]
    text = hub.repos["Org/ppm"].files["README.md"].decode()
    notes = json.loads((made / "ppm" / "rstar.json").read_text())
    assert f"{notes['report']['held_out']['accuracy']:.6g}" in text
    model, _ = load_value_model("hf:Org/ppm")
    assert model.config.num_labels == 1


def test_gguf_files_and_adapters_are_sent(hub: Hub, made: Path) -> None:
    call("push", made / "policy.gguf", "Org/policy-GGUF", *LICENCE)
    path = resolve_model("hf:Org/policy-GGUF:policy.gguf")
    assert path.read_bytes() == (made / "policy.gguf").read_bytes()
    call("push", made / "policy" / "adapter", "Org/adapter", *LICENCE)
    assert metadata(hub, "Org/adapter")["library_name"] == "peft"
    config = json.loads(hub.repos["Org/adapter"].files["adapter_config.json"])
    assert config["base_model_name_or_path"] == "base"


def test_curated_rows_and_runs_become_data_sets(hub: Hub, tmp_path: Path) -> None:
    run, out = toy_run(tmp_path / "run.rstar", problems=2), tmp_path / "data"
    call("curate", run, "--out", out)
    plan = call("push", out, "Org/data", "--yes")
    assert plan["type"] == hub.repos["Org/data"].type == "dataset"
    card = metadata(hub, "Org/data")
    assert card["license"] == "mit"  # that of the generator of the problems
    assert {config["config_name"] for config in card["configs"]} == {"sft", "preference"}
    rows = hub.repos["Org/data"].files["sft.jsonl"].decode().splitlines()
    assert all(SftRow.model_validate_json(row).completion for row in rows)
    own = hand_made(tmp_path / "own.rstar", {"mcts": grown({"a": "+", "b": "-"})})
    with pytest.raises(InputError, match="licence"):
        call("push", own, "Org/paths", "--yes")
    call("push", own, "Org/paths", "--licence", "unknown", "--yes")
    assert b'"verdict"' in hub.repos["Org/paths"].files["trajectories.jsonl"]
    assert metadata(hub, "Org/paths")["license"] == "unknown"


def models_of(policy: int) -> Callable[[], Awaitable[dict[str, Any]]]:
    """A last stage of a round that has this policy and no preference model."""

    async def stage() -> dict[str, Any]:
        return {"policy": policy, "ppm": None}

    return stage


def test_a_part_of_an_evolution_is_the_newest_that_was_promoted(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "evolution"
    with ManifestStore.open(folder, {"rounds": [{}, {}, {}]}) as manifests:
        for number, policy in ((1, 1), (2, 1)):
            manifests.path(f"round-{number}").mkdir()
            asyncio.run(manifests.run_stage(f"{number}/{ROUND}", {}, models_of(policy)))
    shutil.copytree(made / "policy", folder / "round-1" / "policy")
    plan = call("push", folder, "Org/x", "--licence", "mit", "--dry-run")
    assert plan["kind"] == "policy"
    assert "model.safetensors" in {file["file"] for file in plan["files"]}
    with pytest.raises(InputError, match="ppm"):
        call("push", folder, "Org/x", "--licence", "mit", "--dry-run", "--part", "ppm")


def test_a_dry_run_and_an_unanswered_question_send_nothing(hub: Hub, made: Path) -> None:
    plan = call("push", made / "policy", "Org/policy", "--licence", "mit", "--dry-run")
    assert "# policy" in plan["card"]
    with pytest.raises(ConfigError, match="--yes"):
        call("push", made / "policy", "Org/policy", "--licence", "mit")
    shown = CliRunner().invoke(
        app, ["push", str(made / "policy"), "Org/policy", "--licence", "mit", "--dry-run"]
    )
    assert "model.safetensors" in shown.output
    assert "public" in shown.output
    assert hub.repos == {}
    assert not [one for one in hub.asked if one.method != "GET"]


def test_an_interrupted_push_sends_only_what_is_missing(
    hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    (made / "policy" / "extra.safetensors").write_bytes(b"x" * 900)
    try:
        hub.lost = 1
        with pytest.raises(UploadError, match="again"):
            call("push", made / "policy", "Org/again", *LICENCE)
        assert hub.repos["Org/again"].commits == []
        arrived = set(hub.blobs)
        assert arrived
        hub.asked.clear()
        call("push", made / "policy", "Org/again", *LICENCE)
    finally:
        (made / "policy" / "extra.safetensors").unlink()
    sent = {one.path.removeprefix("/lfs/") for one in hub.asked if one.method == "PUT"}
    assert sent
    assert not sent & arrived
    assert len(hub.repos["Org/again"].commits) == 1


def test_keys_are_refused(hub: Hub, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = made / "with-key"
    shutil.copytree(made / "policy", copy)
    try:
        (copy / "notes.txt").write_text("hf_" + "a" * 34)
        with pytest.raises(InputError, match=r"notes\.txt"):
            call("push", copy, "Org/key", *LICENCE)
        (copy / "notes.txt").unlink()
        monkeypatch.setenv("MY_API_KEY", "planted-value-17")
        (copy / "extra.bin").write_bytes(b"\x00\xff" * 700_000 + b"planted-value-17")
        with pytest.raises(InputError, match=r"extra\.bin"):
            call("push", copy, "Org/key", *LICENCE)
        assert hub.repos == {}
        call("push", copy, "Org/key", "--allow-secrets", *LICENCE)
        assert "extra.bin" in hub.repos["Org/key"].files
    finally:
        shutil.rmtree(copy)


def test_refusals_of_the_hub_and_wrong_names_are_one_sentence(hub: Hub, made: Path) -> None:
    with pytest.raises(InputError, match="ORG/NAME"):
        call("push", made / "policy", "name", *LICENCE)
    with pytest.raises(InputError, match="There is no"):
        call("push", made / "nothing", "Org/x", *LICENCE)
    with pytest.raises(InputError, match="--part"):
        call("push", made / "policy", "Org/x", "--part", "ppm", *LICENCE)
    with pytest.raises(InputError, match="licence"):
        call("push", made / "policy", "Org/x", "--yes")
    hub.status = 403
    with pytest.raises(UploadError, match="HF_TOKEN"):
        call("push", made / "policy", "Org/x", *LICENCE)


def test_short_names_and_embedded_models_have_the_names_of_the_hub() -> None:
    assert public_base("local") == public_base("trained")
    assert public_base("qwen2.5-coder-1.5b") == "Qwen/Qwen2.5-Coder-1.5B-Instruct"
    assert public_base("hf:Org/Name") == "Org/Name"
