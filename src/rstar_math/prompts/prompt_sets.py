"""Prompt sets: a system message and worked examples, read from TOML files that come with the
package or that the user wrote.

    system = "Solve the problem with one short Python program. ..."

    [[examples]]
    problem = "There are 84 seats in 7 equal rows. How many seats are in each row?"
    solution = '''
    ```python
    # Divide the seats by the number of rows.
    print(84 // 7)
    ```
    ```output
    12
    ```
    There are \\boxed{12} seats in each row.
    '''

A solution may be written in either step format (`grammar`). It is read into steps, so that a set
can be shown to a model in both.
"""

import tomllib
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts.grammar import FENCED, TAGS
from rstar_math.types import Step

TRAINED = "trained"
"""The set for models that were trained on the step format: no examples."""
MAX_FILE_BYTES = 256 * 1024


class _ExampleFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    problem: str = Field(min_length=1)
    solution: str = Field(min_length=1)


class _PromptSetFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    system: str = ""
    examples: tuple[_ExampleFile, ...] = ()


class Example(BaseModel):
    """A worked problem."""

    model_config = ConfigDict(frozen=True)
    problem: str
    steps: tuple[Step, ...]


class PromptSet(BaseModel):
    """What a model is told and shown before the question."""

    model_config = ConfigDict(frozen=True)
    name: str
    system: str
    """The system message of chat prompts; completion prompts have none."""
    examples: tuple[Example, ...]


def built_in_sets() -> list[str]:
    """Names of the sets that come with the package."""
    folder = files("rstar_math.prompts") / "sets"
    return sorted(e.name.removesuffix(".toml") for e in folder.iterdir() if e.name[-5:] == ".toml")


@lru_cache(maxsize=32)
def load_prompt_set(name: str) -> PromptSet:
    """The prompt set of a built-in name or a TOML file. Raises `ConfigError` that names the first
    fault of a file."""
    if name in built_in_sets():
        text = (files("rstar_math.prompts") / "sets" / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name)
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"The prompt file {name} has more than {MAX_FILE_BYTES} bytes; shorten it."
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy.prompt = {name!r} is neither a prompt set ({', '.join(built_in_sets())}) nor "
            "a readable file."
        ) from error
    return _parse(text, name)


def _parse(text: str, name: str) -> PromptSet:
    """The set that a file's text describes."""
    try:
        found = _PromptSetFile.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"The prompt file {name} is not valid TOML: {error}.") from error
    except ValidationError as error:
        raise ConfigError(f"The prompt file {name}: {explain(error).message}.") from error
    examples = []
    for number, example in enumerate(found.examples, 1):
        steps = _steps(example.solution, f"The prompt file {name}: example {number}")
        examples.append(Example(problem=example.problem.strip(), steps=steps))
    return PromptSet(name=name, system=found.system.strip(), examples=tuple(examples))


def _steps(solution: str, where: str) -> tuple[Step, ...]:
    """A worked solution as steps, with what its programs printed."""
    text = solution.strip()
    tagged = text.startswith("<code>")
    try:
        steps = (TAGS if tagged else FENCED).parse(f"{text}\n", outputs=True)
    except InputError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not steps or steps[-1].answer is None:
        raise ConfigError(f"{where} states no answer; end its solution with \\boxed{{...}}.")
    ending = f"{steps[-1].prose.rstrip()}\n"
    return (*steps[:-1], replace(steps[-1], prose=ending))
