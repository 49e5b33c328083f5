"""Families of prompts: those of the package are well formed, short and reckon right; a folder of
one's own is read, and one that is not as it should be says what to do."""

import re
import shutil
from pathlib import Path

import pytest

import rstar_math.prompts
from rstar_math.errors import ConfigError, InputError
from rstar_math.prompts.families import load_action_prompts
from rstar_math.prompts.subquestions import subquestion_prompt
from rstar_math.types import Question

SHIPPED = Path(rstar_math.prompts.__file__).parent / "families"
FILES = ("cot", "thoughts", "subquestions", "rephrase", "verify")
EXAMPLES = {
    "school": (8, 4, 4, 4, 4),
    "competition": (4, 4, 4, 4, 4),
    "yesno": (5, 5, 4, 4, 4),
}


def texts(name: str) -> dict[str, str]:
    each = load_action_prompts(name)
    return {file: getattr(each, file) for file in FILES}


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_families_of_the_package(name: str) -> None:
    each = load_action_prompts(name)
    assert each is load_action_prompts(name)
    assert each.name == name
    assert each.description.endswith(".")
    assert "answer is" in each.instruction
    assert each.depth == (8 if name == "competition" else 5)
    counts = tuple(text.rstrip().count("\n\n") + 1 for text in texts(name).values())
    assert counts == EXAMPLES[name]
    assert all(text.endswith("\n\n") for text in texts(name).values())


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_package_holds_no_family_that_is_not_named_here(name: str) -> None:
    assert {path.name for path in SHIPPED.iterdir()} == set(EXAMPLES)
    assert {p.name for p in (SHIPPED / name).iterdir()} == {
        "family.toml",
        *(f"{file}.txt" for file in FILES),
    }


def test_the_schools_sums_are_right() -> None:
    for file in ("cot", "thoughts", "subquestions"):
        sums = re.findall(r"(\d[\d +*/-]*\d) = (\d+)", texts("school")[file])
        assert len(sums) >= 8
        for sum_, result in sums:
            assert eval(sum_) == int(result), sum_


def test_the_prompts_of_rap_and_of_the_school_are_one() -> None:
    question = Question("q", "How many?")
    assert subquestion_prompt(question).startswith(load_action_prompts("school").subquestions)


def test_yes_or_no_is_the_answer_to_all_of_that_family() -> None:
    endings = re.findall(r"the answer is (\w+)\.\n\n", texts("yesno")["cot"])
    assert sorted(set(endings)) == ["no", "yes"]
    assert len(endings) == 5


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of one's own, as good as the school's."""
    folder = tmp_path / "mine"
    shutil.copytree(SHIPPED / "school", folder)
    return folder


def test_a_folder_of_ones_own_is_a_family(own: Path) -> None:
    (own / "cot.txt").write_text("Question: One?\nAnswer: The answer is 1.\n", encoding="utf-8")
    each = load_action_prompts(str(own))
    assert each.cot == "Question: One?\nAnswer: The answer is 1.\n\n"
    assert each.thoughts == load_action_prompts("school").thoughts


def test_a_family_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="competition, school, yesno"):
        load_action_prompts("scool")


@pytest.mark.parametrize("name", ["family.toml", *(f"{file}.txt" for file in FILES)])
def test_a_missing_file_is_named(own: Path, name: str) -> None:
    (own / name).unlink()
    with pytest.raises(ConfigError, match=name):
        load_action_prompts(str(own))


@pytest.mark.parametrize(
    "text", ["", "depth = 5", "description = ''\ninstruction = 'x'\ndepth = 0", "depth = 5\nx = "]
)
def test_a_card_must_be_whole(own: Path, text: str) -> None:
    (own / "family.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"family\.toml"):
        load_action_prompts(str(own))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("cot", ""),
        ("cot", "Question: One?\nThe answer is 1."),
        ("cot", "Question: One?\nAnswer: It is one."),
        ("cot", "Question: One?\nAnswer: The answer is 1.\n\n\nQuestion: Two?\nAnswer: 2"),
        ("thoughts", "Question: One?\nSteps:\nIt is one."),
        ("thoughts", "Question: One?\nSteps:\nThe answer is 1.\nThe answer is 1."),
        ("thoughts", "Question: One?\nSteps:\n"),
        ("subquestions", "Problem: One?\nQuestion: How?\nAnswer: The answer is 1."),
        ("subquestions", "Problem: One?"),
        ("subquestions", "Question: One?\nAnswer: The answer is 1."),
        ("rephrase", "Problem: One?\nQuestion: Two?"),
        ("rephrase", "Problem: One?\nCondition 1: It is."),
        ("rephrase", "Question: One?\nCondition 1: It is.\nQuestion: One?"),
        ("verify", "Question: One?\nAnswer: The answer is 1.\nIs the answer right? Perhaps"),
        ("verify", "Question: One?\nAnswer: The answer is 1."),
    ],
)
def test_an_example_that_is_not_well_formed_is_refused(own: Path, name: str, text: str) -> None:
    (own / f"{name}.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{name}\.txt in .* cannot be used"):
        load_action_prompts(str(own))
