"""The reference pages are made from code that says what it is, and the pictures from searches that
repeat."""

import pytest

from docs import pictures
from docs.reference.commands import commands
from docs.reference.names import MODULES, fields, public_names
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


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_says_what_it_is(module: str) -> None:
    from importlib import import_module

    loaded = import_module(module)
    assert public_names(module)
    for public in public_names(module):
        value = getattr(loaded, public)
        if isinstance(value, type) or hasattr(value, "__code__"):
            assert value.__doc__, public
            assert not value.__doc__.startswith(f"{public}("), f"{public}: made by dataclass"


def test_every_command_and_key_and_name_is_on_its_page() -> None:
    assert set(made()) == {
        f"docs/reference/{p}.md" for p in ("cli", "configuration", "strategies", "api", "files")
    }
    cli, keys = text("docs/reference/cli.md"), text("docs/reference/configuration.md")
    for verb, command in commands().items():
        assert f"\n## rstar {verb}\n" in cli
        assert all(p.opts[0] in cli for p in command.params if p.param_type_name == "option")
    for section, field in Config.model_fields.items():
        for key in field.annotation.model_fields:  # type: ignore[union-attr]
            assert f"| `{section}.{key}` |" in keys
    api = text("docs/reference/api.md")
    assert all(f"\n### {name}\n" in api for module in MODULES for name in public_names(module))


def test_fields_come_with_the_text_below_them() -> None:
    import ast

    code = 'class A:\n    x: int = 3\n    """Three."""\n    y: str\n    _z: int = 1\n'
    (node,) = ast.parse(code).body
    assert isinstance(node, ast.ClassDef)
    assert list(fields(node)) == [("x: int = 3", "Three."), ("y: str", "")]


def test_the_pictures_are_those_that_the_program_draws() -> None:
    for name, svg in pictures.pictures().items():
        assert (pictures.IMAGES / name).read_text(encoding="utf-8") == svg
