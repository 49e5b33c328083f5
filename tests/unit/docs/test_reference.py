"""The generated reference pages are complete."""

import re
from importlib import import_module

import pytest

from docs.reference.commands import commands
from rstar_math.config import Config
from rstar_math.evolution.recipe import Recipe
from tests.unit.docs.pages import made, text
from tests.unit.docs.test_names import _models


@pytest.mark.parametrize("verb", sorted(commands()))
def test_every_command_and_option_says_what_it_does(verb: str) -> None:
    command = commands()[verb]
    assert command.help
    assert [p.name for p in command.params if not p.hidden and not p.help] == []


def test_every_option_of_the_configuration_says_what_it_does() -> None:
    silent = [
        f"{model.__name__}.{key}"
        for model in _models()
        if model not in (Config, Recipe)
        for key, field in model.model_fields.items()
        if not field.description
    ]
    assert silent == []


def _public_names() -> list[tuple[str, object]]:
    """Names of the Python page, which mkdocstrings makes: `__all__` of its modules, or what they
    define."""
    found: list[tuple[str, object]] = []
    for name in re.findall(r"^::: (\S+)$", text("docs/reference/api.md"), re.MULTILINE):
        module = import_module(name)
        own = (k for k, v in vars(module).items() if getattr(v, "__module__", None) == name)
        names = getattr(module, "__all__", [key for key in own if not key.startswith("_")])
        found += [(f"{name}.{public}", getattr(module, public)) for public in names]
    return found


def test_every_public_name_has_a_docstring() -> None:
    code = [(k, v) for k, v in _public_names() if isinstance(v, type) or hasattr(v, "__code__")]
    assert len(code) > 60
    silent = [
        name
        for name, value in code
        if not value.__doc__ or value.__doc__.startswith(f"{name.rpartition('.')[2]}(")
    ]
    assert silent == []


def test_every_command_and_key_is_on_its_page() -> None:
    assert set(made()) == {
        f"docs/reference/{p}.md" for p in ("cli", "configuration", "strategies", "files")
    }
    cli, keys = text("docs/reference/cli.md"), text("docs/reference/configuration.md")
    for verb, command in commands().items():
        assert f"\n## rstar {verb}\n" in cli
        assert all(p.opts[0] in cli for p in command.params if p.param_type_name == "option")
    for section, field in Config.model_fields.items():
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert f"| `{section}.{key}` |" in keys
