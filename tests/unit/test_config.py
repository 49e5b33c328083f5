"""Options: read, overridden, refused with a hint."""

from pathlib import Path

import pytest

from rstar_math.config import Config, load_config, presets
from rstar_math.errors import ConfigError


def test_settings_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[search]\nrollouts = 4\ncandidates = 3\n")
    config = load_config(str(file), ["search.rollouts=32", "model.url=http://h/v1"])
    assert (config.search.rollouts, config.search.candidates) == (32, 3)
    assert config.model.url == "http://h/v1"


def test_each_kind_of_model_comes_with_its_preset() -> None:
    assert load_config() == load_config("laptop") == load_config(model="local")
    small = load_config("in-process").search
    assert small != Config().search
    for model in ("qwen2.5-coder-0.5b", "mine.gguf", "hf:ORG/NAME", "hf:ORG/NAME:Q4_K_M"):
        assert load_config(model=model).search == small
    assert load_config(model="vllm:ORG/NAME").search == load_config(model="none").search
    assert load_config(model="http://h/v1").search == Config().search
    assert load_config(None, ["model.url=http://h/v1"]).search == Config().search
    assert load_config("laptop", model="http://h/v1").search == load_config("laptop").search


@pytest.mark.parametrize("model", ["trained", "hf:trained", "vllm:trained"])
def test_the_trained_model_comes_with_its_prompt_whatever_runs_it(model: str) -> None:
    config = load_config(model=model)
    assert config.model.url == model
    assert config.policy.prompt == "trained"
    assert load_config(model=f"{model}-of-mine").policy.prompt == "auto"


def test_every_preset_loads() -> None:
    assert "laptop" in presets()
    for name in presets():
        assert load_config(name) != Config()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("search.rollout=3", "Unknown option search.rollout; the nearest is search.rollouts"),
        ("serch.rollouts=3", "Unknown option serch; the nearest is search"),
        ("model.rollouts=3", "the nearest is search.rollouts"),
        ("search.zzz=3", "search has strategy"),
        ("search.rollouts=0", "Invalid value for search.rollouts: 0"),
        ("servers.gpus=0", 'Invalid value for servers.gpus: 0 (expected a list, as ["a", "b"]).'),
        ("rollouts=3", "not section.key=value"),
        ("search.rollouts", "not section.key=value"),
    ],
)
def test_a_wrong_setting_is_refused_with_a_hint(setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, [setting])
    assert said in str(error.value)


@pytest.mark.parametrize("content", ["[search", "search = 3", "\xff"])
def test_a_wrong_file_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError):
        load_config(str(file))
    with pytest.raises(ConfigError, match="preset"):
        load_config(str(tmp_path / "absent.toml"))


def test_every_option_is_described() -> None:
    for name in Config.model_fields:
        section = type(getattr(Config(), name))
        for key, field in section.model_fields.items():
            assert field.description, f"{name}.{key} has no docstring"
