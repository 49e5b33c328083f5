"""Prompt sets: a system message and worked examples, read from TOML files.

The package contains several sets, and users can write their own:

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

A solution may use either step format (see `grammar`). It is parsed into steps, so a set can be
rendered in both formats.
"""

from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rstar_math.config.loading import explain
from rstar_math.errors import ConfigError, InputError
from rstar_math.files import parse_toml
from rstar_math.prompts.grammar import FENCED, TAGS
from rstar_math.types import Step

TRAINED = "trained"
"""Name of the set for models trained on the step format; it has no examples."""
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
    """A worked example."""

    model_config = ConfigDict(frozen=True)
    problem: str
    steps: tuple[Step, ...]


class PromptSet(BaseModel):
    """A system message and worked examples, which precede the question in a prompt."""

    model_config = ConfigDict(frozen=True)
    name: str
    system: str
    """The system message of chat prompts; completion prompts do not use it."""
    examples: tuple[Example, ...]


def built_in_sets() -> list[str]:
    """Return the names of the packaged sets."""
    folder = files("rstar_math.prompts") / "sets"
    return sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )


@lru_cache(maxsize=32)
def load_prompt_set(name: str) -> PromptSet:
    """Return a packaged prompt set, or the set in a TOML file.

    Raises `ConfigError` with the first error of an invalid file.
    """
    if name in built_in_sets():
        text = (files("rstar_math.prompts") / "sets" / f"{name}.toml").read_text(encoding="utf-8")
        return _parse(text, name)
    path = Path(name).expanduser()
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(
                f"The prompt file {name} is larger than {MAX_FILE_BYTES} bytes; shorten it."
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"policy.prompt = {name!r} is neither a prompt set ({', '.join(built_in_sets())}) nor "
            "a readable file."
        ) from error
    return _parse(text, name)


def _parse(text: str, name: str) -> PromptSet:
    """Parse the text of a prompt file. Raises `ConfigError`."""
    try:
        content = _PromptSetFile.model_validate(parse_toml(text))
    except ValidationError as error:
        raise ConfigError(f"The prompt file {name}: {explain(error).message}.") from error
    except ValueError as error:
        raise ConfigError(f"The prompt file {name} is not valid TOML: {error}.") from error
    examples = []
    for number, example in enumerate(content.examples, 1):
        steps = _parse_solution(example.solution, f"The prompt file {name}: example {number}")
        examples.append(Example(problem=example.problem.strip(), steps=steps))
    return PromptSet(name=name, system=content.system.strip(), examples=tuple(examples))


def _parse_solution(solution: str, source: str) -> tuple[Step, ...]:
    """Parse a worked solution into steps, including the output of its programs."""
    text = solution.strip()
    step_format = TAGS if text.startswith("<code>") else FENCED
    try:
        steps = step_format.parse(f"{text}\n", outputs=True)
    except InputError as error:
        raise ConfigError(f"{source}: {error}") from error
    if not steps or steps[-1].answer is None:
        raise ConfigError(f"{source} has no answer; end its solution with \\boxed{{...}}.")
    answer = replace(steps[-1], prose=f"{steps[-1].prose.rstrip()}\n")
    return (*steps[:-1], answer)
