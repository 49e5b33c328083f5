"""From a round's trees to its data, its policy and its preference model."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from rstar_math.config import LOCAL, TRAINED
from rstar_math.config.servers import VLLM
from rstar_math.errors import InputError
from rstar_math.evolution.gathering import TRAIN, doubted_before, problems_in, solutions_in
from rstar_math.evolution.journal import Facts, Journal, file_digest
from rstar_math.evolution.launching import launched
from rstar_math.evolution.models import Made, weights_digest
from rstar_math.evolution.recipe import Recipe
from rstar_math.evolution.searching import searched
from rstar_math.evolution.store import RunStore
from rstar_math.kit import grader
from rstar_math.models.checkpoints import is_whole, read_notes, writing
from rstar_math.models.downloads import resolve_model
from rstar_math.models.loading import load_policy, trained_folder
from rstar_math.models.names import parse_base
from rstar_math.models.weights import shipped_adapter
from rstar_math.steps import FORMATS
from rstar_math.training.curation import curate
from rstar_math.training.export import Origin, write_folder
from rstar_math.training.export.files import write_rows
from rstar_math.training.rows import PairRow, SolutionRow, annotated_rows, read_rows

SFT, PAIRS, DATA = "sft.jsonl", "pairs.jsonl", "data"
TINY = "tiny"
"""The base that is made on the spot."""
_SHOWN, _VOCABULARY, _COPYING = 200, 512, 250
"""Of a tiny model: problems and solutions that its tokenizer is made from, its tokens, and the
steps in which it learns to copy a number."""
R = TypeVar("R", SolutionRow, PairRow)
_PREFIX = {"transformers": "hf:", "vllm": VLLM}
Say = Callable[[str], None]


async def choose_data(journal: Journal, recipe: Recipe, number: int, runs: Sequence[Path]) -> Facts:
    """Curate a round's runs into `round-N/data`, and write what its models are trained on:
    solutions to `round-N/sft.jsonl`, pairs to `round-N/pairs.jsonl`."""
    report: Facts = {"left_out": {}}
    rows: list[SolutionRow] = []
    pairs: list[PairRow] = []
    if recipe.rounds[number - 1].data == "annotated":
        solved = solutions_in(journal)[: recipe.rounds[0].problems]
        rows, report["left_out"] = annotated_rows(solved, FORMATS[recipe.curation.format])
    else:
        report |= await _curated(journal, recipe, number, runs)
        rows = _rows(journal.path(f"round-{number}", DATA, SFT), SolutionRow)
        pairs = _rows(journal.path(f"round-{number}", DATA, "preference.jsonl"), PairRow)
    report["solutions"] = len(rows)
    report["problems"] = len({row.problem for row in rows})
    if recipe.keep == "all":
        for before in range(number - 1, 0, -1):
            rows += read_rows(journal.path(f"round-{before}", SFT), SolutionRow)
            pairs += _rows(journal.path(f"round-{before}", DATA, "preference.jsonl"), PairRow)
        doubted = {one["problem"] for one in report.get("unreliable", ())}
        doubted |= doubted_before(journal, number)
        rows = [row for row in rows if row.problem not in doubted]
        pairs = [pair for pair in pairs if pair.problem not in doubted]
    unique = list({(row.problem, row.completion): row for row in rows}.values())
    if not unique:
        raise InputError(
            f"Round {number} found no right solution to learn from; search more problems or with "
            "more rollouts, or begin with a stronger model (rounds.1.model) or annotated solutions."
        )
    path, other = (journal.path(f"round-{number}", name) for name in (SFT, PAIRS))
    write_rows(path, SolutionRow, unique)
    hashes: Facts = {"file": file_digest(path), "pairs_file": None}
    if pairs:
        write_rows(other, PairRow, pairs)
        hashes["pairs_file"] = file_digest(other)
        hashes["pairs_to_train_on"] = len(pairs)
    return {**report, "to_train_on": len(unique), **hashes}


def _rows(file: Path, kind: type[R]) -> list[R]:
    """The rows of a file; none where there is no such file."""
    return read_rows(file, kind) if file.is_file() else []


async def _curated(journal: Journal, recipe: Recipe, number: int, runs: Sequence[Path]) -> Facts:
    """Write the folder of a round's data; the counts."""
    async with grader(recipe.grading) as judges:
        found = await curate(searched(runs), judges.group, recipe.curation)
    with RunStore.read(runs[0]) as store:
        origin = Origin(runs[0].name, store.digest(), store.conditions(), tuple(store.strategies()))
    dropped = [asdict(one) for one in found.unreliable]
    folder = journal.path(f"round-{number}", DATA)
    mark = write_folder(folder, found, origin, recipe.curation)
    return {
        "pairs": len(found.pairs),
        "suspects": [asdict(one) for one in found.suspects],
        **({"unreliable": dropped} if dropped else {}),
        "report": mark["report"],
        "files": {name: entry["rows"] for name, entry in mark["files"].items()},
    }


def train_round_policy(journal: Journal, recipe: Recipe, number: int, base: str, say: Say) -> Facts:
    """Train a round's policy from `base`."""
    from rstar_math.training.policy import train_policy

    out = journal.path(f"round-{number}", "policy")
    data = journal.path(f"round-{number}", SFT)
    if is_whole(out):
        return _report(out)
    sft = recipe.sft.model_copy(update={"mode": recipe.policy.mode})
    if recipe.launch:
        launched(recipe.launch, ["policy", str(data), "--base", base], out, sft, say=say)
    else:
        train_policy(read_rows(data, SolutionRow), base, out, sft, say=say)
    return _report(out)


def train_round_ppm(
    journal: Journal, recipe: Recipe, number: int, policy: Made, say: Say
) -> Facts | None:
    """Train a round's preference model from its policy; None where the round has no pairs."""
    from rstar_math.training.preference import train_preference
    from rstar_math.training.probe import train_probe

    out = journal.path(f"round-{number}", "ppm")
    data = journal.path(f"round-{number}", PAIRS)
    if not data.is_file():
        return None
    if is_whole(out):
        return _report(out)
    mode = {"mode": recipe.policy.mode}
    preference = recipe.preference.model_copy(update=mode)
    if recipe.launch and not recipe.probe:
        training = ["ppm", str(data), "--base", policy.folder]
        training += ["--objective", preference.objective]
        launched(recipe.launch, training, out, preference, say=say)
        return _report(out)
    rows = read_rows(data, PairRow)
    if recipe.probe:
        train_probe(rows, policy.folder, out, recipe.head.model_copy(update=mode), say=say)
    else:
        train_preference(rows, policy.folder, out, preference, say=say)
    return _report(out)


def deployed(recipe: Recipe, folder: Path) -> str:
    """The address of a policy for a solver; for llama.cpp its .gguf file, written if need be."""
    if recipe.int8:
        return f"{VLLM}{_int8(folder, folder.with_name(f'{folder.name}-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_PREFIX[recipe.engine]}{folder}"
    return _written(folder, folder.with_suffix(".gguf"))


def _int8(folder: Path, out: Path) -> Path:
    """A checkpoint with 8-bit weights, written if it is not there."""
    from rstar_math.models.int8_checkpoints import write_int8

    if not is_whole(out):
        write_int8(folder, out)
    return out


def _written(folder: Path, file: Path) -> str:
    """The .gguf file of a checkpoint, written if it is not there."""
    from rstar_math.models.gguf_files import write_gguf

    if not file.is_file():
        write_gguf(folder, file)
    return str(file)


def base_of(journal: Journal, recipe: Recipe) -> str:
    """What the policies are trained from; a tiny model, and the checkpoint of "trained" (whose name
    tells which), are made when they are first asked for."""
    if recipe.base == TRAINED:
        return str(trained_folder())
    if recipe.base != TINY:
        meant = parse_base(recipe.base)
        here = meant.kind in ("packaged", "file", "folder")
        return meant.text if here else str(resolve_model(meant))
    folder = journal.path("base")
    if not folder.is_dir():
        from rstar_math.testing.tiny import save_tiny_policy

        texts = [problem.question.text for problem in problems_in(journal, TRAIN)[:_SHOWN]]
        if recipe.rounds[0].data == "annotated":
            rows, _ = annotated_rows(
                solutions_in(journal)[:_SHOWN], FORMATS[recipe.curation.format]
            )
            texts += [row.completion for row in rows]
        sizes: dict[str, Any] = {"size": 64, "layers": 2, "spread": 0.1, "vocabulary": _VOCABULARY}
        save_tiny_policy(folder, **sizes, texts=texts, copying=_COPYING)
    return str(folder)


def make(journal: Journal, recipe: Recipe) -> Facts:
    """Make a tiny base, where it is not made yet; what it came to."""
    return {"weights": weights_digest(Path(base_of(journal, recipe)))}


def base_address(journal: Journal, recipe: Recipe) -> str:
    """The address of the base for a solver."""
    if recipe.base == TRAINED and recipe.engine == "llama.cpp":
        return TRAINED
    base = base_of(journal, recipe)
    if recipe.engine == "vllm" and (base == LOCAL or base.endswith(".gguf")):
        base = str(_unpacked(journal, base))
    if recipe.int8:
        return f"{VLLM}{_int8(Path(base), journal.path('base-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_PREFIX[recipe.engine]}{base}"
    if base == LOCAL or base.endswith(".gguf"):
        return base
    if parse_base(recipe.base).kind == "hub-checkpoint":
        return _written(Path(base), journal.path("base.gguf"))  # not into the hub client's cache
    return deployed(recipe, Path(base))


def base_digest(recipe: Recipe) -> str:
    """What tells a base from others, for a run's conditions."""
    if recipe.base != TRAINED:
        return f"base {recipe.base}"
    with shipped_adapter("policy") as (_, mark):
        return f"base {recipe.base} {mark}"


def _unpacked(journal: Journal, base: str) -> Path:
    """The checkpoint of a model that is one file, for servers that read folders; written when it
    is first asked for."""
    folder = journal.path("base")
    if not is_whole(folder):
        model, tokenizer = load_policy(base)
        with writing(folder, {"kind": "policy", "from": base}) as part:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
    return folder


def _report(out: Path) -> Facts:
    """What a finished training came to."""
    report: dict[str, Any] = read_notes(out).get("report", {})
    held = dict(report.get("held_out") or {})
    held.pop("calibration", None)
    kept = {key: value for key, value in report.items() if key not in ("losses", "held_out")}
    return {**kept, **({"held_out": held} if held else {}), "weights": weights_digest(out)}
