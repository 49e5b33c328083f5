"""A stage is done once, whole or not at all, and from the same inputs."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.evolution.manifest import ManifestStore, StageResult, digest
from rstar_math.files import write_json

RECIPE: dict[str, Any] = {"base": "local", "rounds": [{"rollouts": 4}]}


def do(
    manifests: ManifestStore, name: str, inputs: dict[str, Any], found: StageResult, log: list[str]
) -> StageResult:
    async def work() -> StageResult:
        log.append(name)
        return found

    return asyncio.run(manifests.run_stage(name, inputs, work))


def test_a_stage_is_done_once_also_by_a_later_process(tmp_path: Path) -> None:
    log: list[str] = []
    for _ in range(2):
        with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
            assert do(manifests, "1/search", {"seed": 1}, {"solved": 3}, log) == {"solved": 3}
    assert log == ["1/search"]
    assert ManifestStore.read(tmp_path / "run").result("1/search") == {"solved": 3}
    assert ManifestStore.read(tmp_path / "run").result("1/curate") is None


def test_a_stage_that_fails_leaves_nothing_and_is_done_again(tmp_path: Path) -> None:
    async def fails() -> StageResult:
        raise StoreError("no room")

    with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
        with pytest.raises(StoreError):
            asyncio.run(manifests.run_stage("1/search", {}, fails))
        assert manifests.result("1/search") is None
        log: list[str] = []
        do(manifests, "1/search", {}, {}, log)
        assert log == ["1/search"]


def test_other_inputs_are_refused_and_named(tmp_path: Path) -> None:
    with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
        do(manifests, "1/search", {"search": {"seed": 1}}, {}, [])
        with pytest.raises(ConfigError, match=r"search\.seed was 1"):
            do(manifests, "1/search", {"search": {"seed": 2}}, {}, [])


def test_what_only_changes_the_pace_is_no_other_input(tmp_path: Path) -> None:
    with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
        do(
            manifests,
            "1/search",
            {"search": {"seed": 1, "parallel_problems": None}},
            {"solved": 3},
            [],
        )
        slow = {"search": {"seed": 1, "parallel_problems": 3}}
        assert do(manifests, "1/search", slow, {}, []) == {"solved": 3}


def test_rounds_may_be_added_and_nothing_else_changed(tmp_path: Path) -> None:
    more = {**RECIPE, "rounds": [*RECIPE["rounds"], {"rollouts": 16}]}
    with ManifestStore.open(tmp_path / "run", RECIPE):
        pass
    with ManifestStore.open(tmp_path / "run", more) as manifests:
        assert len(manifests.recipe()["rounds"]) == 2
    with pytest.raises(ConfigError, match=r"rounds was"):
        ManifestStore.open(tmp_path / "run", RECIPE)
    with pytest.raises(ConfigError, match=r'base was "local"'):
        ManifestStore.open(tmp_path / "run", {**more, "base": "tiny"})
    changed = {**more, "rounds": [{"rollouts": 5}, {"rollouts": 16}]}
    with pytest.raises(ConfigError, match=r"rounds\.1\.rollouts was 4"):
        ManifestStore.open(tmp_path / "run", changed)


def test_options_that_a_later_version_added_are_no_change(tmp_path: Path) -> None:
    later = {**RECIPE, "rounds": [{"rollouts": 4, "tempo": 1}], "servers": {}}
    with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
        do(manifests, "1/search", {"search": {"seed": 1}}, {}, [])
    with ManifestStore.open(tmp_path / "run", later) as manifests:
        log: list[str] = []
        do(manifests, "1/search", {"search": {"seed": 1, "new": 0}, "more": 1}, {}, log)
        assert log == []


def test_new_problems_cannot_be_asked_for_in_the_middle(tmp_path: Path) -> None:
    off, on = ({**RECIPE, "synthesis": {"requests": n}} for n in (0, 5))
    with ManifestStore.open(tmp_path / "run", off):
        pass
    with pytest.raises(ConfigError, match=r"synthesis\.requests was 0"):
        ManifestStore.open(tmp_path / "run", on)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        ManifestStore.open(tmp_path / "run", RECIPE),
        pytest.raises(StoreError, match="Another process"),
    ):
        ManifestStore.open(tmp_path / "run", RECIPE)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match="other files"):
        ManifestStore.open(tmp_path / "run", RECIPE)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_a_beginning_that_was_cut_short_is_begun_again(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".recipe.json.0123abcd.part").write_text("{")
    with ManifestStore.open(folder, RECIPE) as manifests:
        assert manifests.recipe() == RECIPE


def test_a_model_that_moved_is_the_same_model(tmp_path: Path) -> None:
    def asking(url: str, name: str | None = None) -> dict[str, Any]:
        model = {"url": url, "name": name, "timeout_s": len(url), "context_tokens": 4096}
        return {**RECIPE, "rounds": [{"model": model}], "synthesis": {"model": model}}

    with ManifestStore.open(tmp_path / "run", asking("http://a:8000/v1")):
        pass
    with ManifestStore.open(tmp_path / "run", asking("http://elsewhere:8000/v1")):
        pass
    with pytest.raises(ConfigError, match=r'model\.is was "served"'):
        ManifestStore.open(tmp_path / "run", asking("m.gguf"))
    with pytest.raises(ConfigError, match=r"model\.name was null"):
        ManifestStore.open(tmp_path / "run", asking("http://a:8000/v1", "qwen"))


@pytest.mark.parametrize("text", ["[]", '"recipe"', "{}", '{"recipe": 3}'])
def test_a_recipe_of_something_else_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "recipe.json").write_text(text)
    with pytest.raises(StoreError, match="not written by rstar-math"):
        ManifestStore.open(tmp_path, RECIPE)


def test_looking_at_what_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="rstar evolve"):
        ManifestStore.read(tmp_path)


def test_a_damaged_manifest_is_a_sentence(tmp_path: Path) -> None:
    with ManifestStore.open(tmp_path / "run", RECIPE) as manifests:
        do(manifests, "1/search", {}, {}, [])
        (tmp_path / "run" / "round-1" / "search.stage.json").write_text("{")
        with pytest.raises(StoreError, match="is damaged"):
            manifests.result("1/search")


def test_another_format_is_refused(tmp_path: Path) -> None:
    with ManifestStore.open(tmp_path / "run", RECIPE):
        pass
    told = tmp_path / "run" / "recipe.json"
    told.write_text(json.dumps({**json.loads(told.read_text()), "format": 9}))
    with pytest.raises(StoreError, match="format 9"):
        ManifestStore.open(tmp_path / "run", RECIPE)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": 1})
    write_json(tmp_path / "a.json", {"x": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_digest_depends_on_content_alone() -> None:
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 2, "b": 1})
