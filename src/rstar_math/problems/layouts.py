"""Rows of public data sets, recognised by their columns and turned into rows of our own layout.

| layout | columns |
| --- | --- |
| HumanEval | prompt, entry_point, test |
| MBPP | text or prompt, test_list |
| LiveCodeBench | question_content, public_test_cases, private_test_cases |
| GPQA | Question, Correct Answer, Incorrect Answer 1 to 3 |
| MMLU | question, choices (list), answer (index) |
| ARC, CommonsenseQA | question, choices (text and label), answerKey |
| BIG-bench | input, target_scores; or inputs, multiple_choice_targets and _scores |
| BIG-bench Hard | input with "Options:", target |
| BoolQ, StrategyQA | question, answer as a truth value, perhaps passage |

MMLU-Pro has our own layout: question, options, answer as a letter.
"""

import io
import json
import pickle
import random
import re
import zlib
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rstar_math.files import inflate
from rstar_math.problems.asserts import doctests, function_in, setup_of, split_asserts
from rstar_math.seeding import derive
from rstar_math.task_records import MAX_TEST_CHARS
from rstar_math.tasks import ChoiceTask, RightOptions, letters
from rstar_math.types import Problem

_MAX_PRIVATE_BYTES = 256 << 20
"""Maximum size of the unpacked hidden tests of a LiveCodeBench problem."""
_REFERS_TO_OTHERS = re.compile(
    r"\b(?:all|none|both|any|neither|two) of (?:the|these)\b|\b(?:both|options?)\s+\(?[A-J]\b"
    r"|^\(?[A-J]\)? (?:and|or|&) \(?[A-J]\b",
    re.IGNORECASE,
)
"""Options that name other options; their order must stay."""

Row = Mapping[str, Any]


def recognise(row: Row) -> Row:
    """The row in our own layout; unchanged if its layout is not known. Raises `ValueError`."""
    if "kind" in row:
        return row
    for needed, convert in _LAYOUTS:
        if all(key in row for key in needed):
            converted = convert(row)
            if converted is not None:
                return {**_identity(row), **converted}
    return row


def _identity(row: Row) -> dict[str, Any]:
    """Id, source and level of a row."""
    names = ("id", "task_id", "question_id", "Record ID", "qid")
    found = {"id": next((row[key] for key in names if row.get(key) is not None), None)}
    found |= {key: row.get(key) for key in ("source", "level")}
    return {key: str(value) for key, value in found.items() if value is not None}


def _humaneval(row: Row) -> dict[str, Any]:
    prompt, name = str(row["prompt"]), str(row["entry_point"])
    return {
        "kind": "code",
        "problem": prompt,
        "function": name,
        "setup": setup_of(prompt, name),
        "tests": doctests(prompt, name),
        **_hidden(split_asserts(str(row["test"]), name, alias="candidate")),
    }


def _mbpp(row: Row) -> dict[str, Any] | None:
    asserts = [str(line) for line in row["test_list"]]
    text = row.get("text") or row.get("prompt")
    name = function_in(asserts)
    if not isinstance(text, str) or name is None:
        return None
    tests = [test for line in asserts for test in split_asserts(line, name)]
    more = [str(line) for line in row.get("challenge_test_list") or ()]
    tests += [test for line in more for test in split_asserts(line, name)]
    setup = row.get("test_setup_code") or "\n".join(map(str, row.get("test_imports") or ()))
    return {
        "kind": "code",
        "problem": text,
        "function": name,
        "setup": str(setup),
        "tests": tests[:1],
        **_hidden(tests[1:]),
    }


def _livecodebench(row: Row) -> dict[str, Any]:
    public = _cases(row["public_test_cases"])
    private = _cases(row["private_test_cases"])
    text = str(row["question_content"])
    level = {"level": row["difficulty"]} if row.get("difficulty") else {}
    if any(case.get("testtype") == "functional" for case in public):
        metadata = row.get("metadata") or "{}"
        facts = json.loads(metadata) if isinstance(metadata, str) else metadata
        name = str(facts.get("func_name") or "")
        starter = str(row.get("starter_code") or "")
        return {
            **level,
            "kind": "code",
            "problem": f"{text}\n\nComplete this class:\n{starter}",
            "function": name,
            "tuples_are_lists": True,
            "tests": [_functional(case, name) for case in public],
            **_hidden([_functional(case, name) for case in private]),
        }
    tests = [[{"stdin": c["input"], "stdout": c["output"]} for c in cs] for cs in (public, private)]
    return {**level, "kind": "code", "problem": text, "tests": tests[0], **_hidden(tests[1])}


def _functional(case: Row, name: str) -> dict[str, str]:
    """A test of a method: each line of the input is an argument in JSON."""
    lines = [line for line in str(case["input"]).splitlines() if line.strip()]
    arguments = ", ".join(repr(json.loads(line)) for line in lines)
    call = f"Solution().{name}({arguments})"
    return {"call": call, "returns": repr(json.loads(str(case["output"])))}


class _TextUnpickler(pickle.Unpickler):
    """Reads pickled texts, and no other object."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse every class. Raises `UnpicklingError`."""
        raise pickle.UnpicklingError(f"{module}.{name} is not text")


def _cases(value: Any) -> list[dict[str, Any]]:
    """Test cases: a list, its JSON, or that JSON pickled, compressed and in base64."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            try:
                packed = inflate(b64decode(value, validate=True), _MAX_PRIVATE_BYTES)
                value = json.loads(_TextUnpickler(io.BytesIO(packed)).load())
            except (ValueError, TypeError, zlib.error, pickle.UnpicklingError, EOFError) as error:
                raise ValueError(f"the test cases cannot be unpacked ({error})") from None
    if not isinstance(value, list) or not all(isinstance(case, dict) for case in value):
        raise ValueError("the test cases are not a list of objects")
    return value


def _hidden(tests: Sequence[Row]) -> dict[str, Any]:
    """The hidden tests; those that are too long to keep are left out."""
    short = [test for test in tests if all(len(str(v)) <= MAX_TEST_CHARS for v in test.values())]
    return {"hidden_tests": short} if short else {}


def _gpqa(row: Row) -> dict[str, Any]:
    options = [str(row["Correct Answer"]), *(str(row[f"Incorrect Answer {n}"]) for n in (1, 2, 3))]
    options = [" ".join(option.split()) for option in options]
    order = _order(options, derive(0, "options", str(row["Question"])))
    return {
        "kind": "choice",
        "problem": str(row["Question"]),
        "options": [options[at] for at in order],
        "answer": letters(4)[order.index(0)],
    }


def _mmlu(row: Row) -> dict[str, Any] | None:
    options, answer = row["choices"], row["answer"]
    if not isinstance(options, list) or isinstance(answer, bool) or not isinstance(answer, int):
        return None
    if not 0 <= answer < len(options):
        raise ValueError(f'"answer" is {answer}, but there are {len(options)} choices')
    choice = {"kind": "choice", "options": options, "answer": letters(26)[answer]}
    return {"problem": row["question"], **choice}


def _arc(row: Row) -> dict[str, Any] | None:
    question: Any = row["question"]
    choices: Any = row.get("choices")
    if isinstance(question, Mapping):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list):
        choices = {key: [entry[key] for entry in choices] for key in ("text", "label")}
    if not isinstance(choices, Mapping) or not isinstance(question, str):
        return None
    labels, key = [str(label) for label in choices["label"]], str(row["answerKey"] or "")
    if key and key not in labels:
        raise ValueError(f'"answerKey" is {key!r}, but the labels are {", ".join(labels)}')
    answer = {"answer": letters(26)[labels.index(key)]} if key else {}
    options = {"kind": "choice", "options": list(choices["text"])}
    return {"problem": question, **options, **answer}


def _bigbench(row: Row) -> dict[str, Any] | None:
    if "target_scores" in row:
        text, scores = row["input"], row["target_scores"]
        options, values = list(scores), list(scores.values())
    else:
        text = row["inputs"]
        options = list(row["multiple_choice_targets"])
        values = list(row["multiple_choice_scores"])
    if len(options) < 2:
        return None
    best = [letter for letter, value in zip(letters(26), values, strict=False) if value > 0]
    return {
        "kind": "choice",
        "problem": text,
        "options": options,
        "answer": best if len(best) > 1 else best[0] if best else None,
    }


_BBH_OPTIONS = re.compile(r"\n*Options:\n((?:\([A-Z]\) [^\n]*(?:\n|\Z))+)")


def _bigbench_hard(row: Row) -> dict[str, Any] | None:
    text, target = str(row["input"]), str(row["target"]).strip()
    match = _BBH_OPTIONS.search(text)
    if match is None:
        if target.lower() in ("yes", "no", "true", "false"):
            return {"kind": "text", "form": "yesno", "problem": text, "answer": target}
        return {"problem": text, "answer": target}
    options = [line[4:] for line in match[1].splitlines()]
    problem = text[: match.start()] + text[match.end() :]
    return {"kind": "choice", "problem": problem, "options": options, "answer": target}


def _truth(row: Row) -> dict[str, Any] | None:
    answer = row.get("answer")
    if not isinstance(answer, bool):
        return None
    passage = row.get("passage")
    text = f"{passage}\n\n{row['question']}?" if passage else str(row["question"])
    word = "yes" if answer else "no"
    return {"kind": "text", "form": "yesno", "problem": text, "answer": word}


_LAYOUTS: tuple[tuple[tuple[str, ...], Callable[[Row], dict[str, Any] | None]], ...] = (
    (("prompt", "entry_point", "test"), _humaneval),
    (("test_list",), _mbpp),
    (("question_content", "public_test_cases", "private_test_cases"), _livecodebench),
    (("Question", "Correct Answer", "Incorrect Answer 1"), _gpqa),
    (("question", "answerKey"), _arc),
    (("question", "choices", "answer"), _mmlu),
    (("input", "target_scores"), _bigbench),
    (("inputs", "multiple_choice_targets", "multiple_choice_scores"), _bigbench),
    (("input", "target"), _bigbench_hard),
    (("question", "answer"), _truth),
)
"""The columns of each layout, and the function that converts a row; None if it does not fit."""


def _order(options: Sequence[str], seed: int) -> list[int]:
    """A random order of options: the old position of each new one.

    Options that name other options keep their place.
    """
    free = [at for at, option in enumerate(options) if not _REFERS_TO_OTHERS.search(option)]
    if any(re.search(r"\b[A-J]\b", options[at]) for at in set(range(len(options))) - set(free)):
        return list(range(len(options)))
    mixed = list(free)
    random.Random(seed).shuffle(mixed)
    order = list(range(len(options)))
    for place, at in zip(free, mixed, strict=True):
        order[place] = at
    return order


def shuffle_options(problem: Problem, seed: int) -> Problem:
    """The problem with its options in a random order, and its reference moved along.

    The order depends on the seed and the problem's id. Options such as "all of the above" stay in
    their place; options that name letters keep the whole order.
    """
    task, reference = problem.question.task, problem.reference
    if not isinstance(task, ChoiceTask):
        return problem
    order = _order(task.options, derive(seed, "options", problem.id))
    task = replace(task, options=tuple(task.options[at] for at in order))
    if isinstance(reference, RightOptions):
        valid = letters(len(order))
        moved = sorted(valid[order.index(valid.index(letter))] for letter in reference.letters)
        reference = RightOptions(tuple(moved))
    question = replace(problem.question, task=task)
    return replace(problem, question=question, reference=reference)
