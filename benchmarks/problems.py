"""Speed and recall of deduplication and decontamination on planted problems.

    python benchmarks/problems.py [--json] [--problems N]

Problems of about 40 words with numbers and a formula are generated from random words (by default
100,000). Changed copies are planted, 1 % of each of five kinds. Three kinds are duplicates: other
case, space and punctuation; LaTeX notation; one changed word. Two are not: one changed number and
one changed sign. Then 2,000 of the problems become an evaluation set and are planted again: changed
as above, with a prefix, or with the numbers in another order. `family_s` is the time for the same
number of problems from 20 templates with other numbers. Seconds are processor time of one core.
"""

import argparse
import json
import random
import time
from dataclasses import replace

from rstar_math.problems.filtering import EvaluationIndex, decontaminate, deduplicate
from rstar_math.types import Problem, Question

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def made(rng: random.Random, vocabulary: list[str], number: int) -> Problem:
    """One problem: prose with three to five numbers and a small formula."""
    text = [rng.choice(vocabulary) for _ in range(rng.randrange(15, 50))]
    for _ in range(rng.randrange(3, 6)):
        text.insert(rng.randrange(len(text)), str(rng.randrange(2, 1000)))
    text.insert(rng.randrange(len(text)), f"${rng.randrange(2, 9)}x + {rng.randrange(2, 99)}$")
    return problem(f"p{number}", " ".join(text).capitalize() + "?", str(rng.randrange(1000)))


def problem(name: str, text: str, answer: str | None) -> Problem:
    """A problem."""
    return Problem(Question(name, text), answer)


def dressed(text: str, kind: str, rng: random.Random) -> str:
    """The text, changed in one of the planted ways."""
    words = text.split()
    numbers = [at for at, word in enumerate(words) if word.isdigit()]
    prose = [at for at, word in enumerate(words) if word.isalpha() and len(word) > 3]
    if kind == "plain":
        return "  " + ", ".join([" ".join(words[:9]).upper(), " ".join(words[9:])]).replace(
            "?", " ."
        )
    if kind == "latex":
        return text.replace("$", "").replace(
            words[numbers[0]], f"$\\text{{{words[numbers[0]]}}}$", 1
        )
    if kind == "word":
        words[rng.choice(prose[2:-2])] = "something"
    elif kind == "number":
        words[numbers[0]] = str(int(words[numbers[0]]) + 1)
    elif kind == "sign":
        return text.replace(" + ", " - ")
    elif kind == "prefix":
        words = ["Question", "7.", "Think", "step", "by", "step:", *words]
    elif kind == "reordered":
        values = [words[at] for at in numbers]
        for at, value in zip(numbers, values[1:] + values[:1], strict=True):
            words[at] = value
    return " ".join(words)


def duplicates(problems: list[Problem], rng: random.Random) -> dict[str, float]:
    """Results of `deduplicate`."""
    count = len(problems) // 100
    kinds = ("plain", "latex", "word", "number", "sign")
    planted: dict[str, str] = {}
    added = []
    for kind in kinds:
        for original in rng.sample(problems, count):
            name = f"{original.id}-{kind}"
            planted[name] = kind
            text = dressed(original.question.text, kind, rng)
            added.append(problem(name, text, original.reference))
    everything = [*problems, *added]
    rng.shuffle(everything)
    started = time.process_time()
    found = deduplicate(everything)
    seconds = time.process_time() - started
    gone = {d.problem.id for d in found.removed} | {d.witness.id for d in found.removed}
    figures = {"problems_per_s": len(everything) / seconds, "dedup_s": seconds}
    for kind in kinds:
        names = [name for name, other in planted.items() if other == kind]
        hits = sum(name in gone for name in names)
        wanted = kind in ("plain", "latex", "word")
        figures[f"{'found' if wanted else 'wrongly_found'}_{kind}"] = hits / len(names)
    touched = {name.partition("-")[0] for name in planted}
    figures["wrongly_removed"] = sum(
        d.problem.id not in planted and d.problem.id not in touched for d in found.removed
    )
    return figures


def contamination(problems: list[Problem], rng: random.Random) -> dict[str, float]:
    """Results of `decontaminate`."""
    held, rest = problems[:2000], problems[2000:]
    kinds = ("plain", "latex", "prefix", "reordered", "word")
    planted = {}
    for number, original in enumerate(held):
        kind = kinds[number % len(kinds)]
        text = dressed(original.question.text, kind, rng)
        asked = Question(f"{original.id}-{kind}", text)
        planted[asked.id] = replace(original, question=asked)
    started = time.process_time()
    found = decontaminate([*rest, *planted.values()], EvaluationIndex({"held": held}))
    seconds = time.process_time() - started
    gone = {match.problem.id for match in found.removed}
    figures = {
        "decontaminated_per_s": len(problems) / seconds,
        "decontamination_s": seconds,
        "wrongly_contaminated": float(len(gone - planted.keys())),
    }
    for kind in kinds:
        names = [name for name in planted if name.endswith(kind)]
        figures[f"contamination_found_{kind}"] = sum(name in gone for name in names) / len(names)
    return figures


def families(problems: list[Problem], rng: random.Random) -> dict[str, float]:
    """Time for problems from a few templates, compared with two problems of each template."""
    templates = [problem.question.text for problem in problems[:20]]
    made = []
    for number in range(len(problems)):
        words = [
            str(rng.randrange(2, 10_000)) if word.isdigit() else word
            for word in templates[number % 20].split()
        ]
        made.append(problem(f"f{number}", " ".join(words), "1"))
    started = time.process_time()
    kept = deduplicate(made).kept
    clean = decontaminate(kept, EvaluationIndex({"templates": made[:40]}))
    return {
        "family_s": time.process_time() - started,
        "family_kept": len(kept) / len(made),
        "family_templates": len(clean.templates) / len(made),
    }


def main() -> None:
    """Measure and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--problems", type=int, default=100_000)
    args = parser.parse_args()
    rng = random.Random(7)
    vocabulary = ["".join(rng.choices(LETTERS, k=rng.randrange(4, 9))) for _ in range(3000)]
    problems = [made(rng, vocabulary, number) for number in range(args.problems)]
    figures = duplicates(problems, rng) | contamination(problems, rng) | families(problems, rng)
    for name, value in figures.items():
        print(f"{name:32} {value:12.3f}")
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
