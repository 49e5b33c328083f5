"""The stages of a round: search, curation, training, deployment."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rstar_math.checkpoints.folders import bundled_adapter, is_complete, read_notes, save_checkpoint
from rstar_math.config.sections import LOCAL, TRAINED, VLLM, Config, ModelConfig
from rstar_math.costs import ENVIRONMENT_FIELDS
from rstar_math.distributed import open_searcher
from rstar_math.errors import InputError, StoreError
from rstar_math.evaluation.reranking import THRESHOLDS, UNSOLVED, label, of_tree
from rstar_math.evolution.manifest import Facts, ManifestStore, file_digest
from rstar_math.evolution.problem_sets import (
    TRAIN,
    problems_in,
    solutions_in,
    unreliable_in_earlier_rounds,
)
from rstar_math.evolution.recipe import Recipe
from rstar_math.models.downloads import resolve_model
from rstar_math.models.loading import load_policy, trained_folder
from rstar_math.models.names import parse_base
from rstar_math.prompts.grammar import FORMATS
from rstar_math.runs.execute import solve_problems
from rstar_math.runs.export import write_rows
from rstar_math.runs.results import (
    PackedResult,
    SearchedProblem,
    any_path_correct,
    default_conditions,
    run_conditions,
)
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.solver.components import grader
from rstar_math.training.curation.curate import curate
from rstar_math.training.dataset import DatasetSource, write_folder
from rstar_math.training.rows import PreferenceRow, SftRow, annotated_rows, read_rows
from rstar_math.training.sft import run_launcher
from rstar_math.types import Cost, Problem, Verdict

WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model that a round made. Round 0 is the base."""

    round: int
    folder: str
    """A checkpoint; of the base what transformers loads."""
    address: str
    """What `model.url` is set to; "" for a preference model."""
    digest: str
    """A hash of its weights."""


@dataclass(frozen=True, slots=True)
class Models:
    """The models in use."""

    policy: ModelVersion
    ppm: ModelVersion | None = None

    def with_policy(self, policy: ModelVersion) -> "Models":
        """The pair with another policy."""
        return replace(self, policy=policy)

    def with_ppm(self, ppm: ModelVersion) -> "Models":
        """The pair with another preference model."""
        return replace(self, ppm=ppm)

    async def manifest(self) -> Facts:
        """Which rounds made the two, as the manifest of a round's end."""
        return {"policy": self.policy.round, "ppm": self.ppm and self.ppm.round}

    def hashes(self, *, scored: bool) -> dict[str, str]:
        """What the models are, for a run's conditions."""
        ppm = self.ppm.digest if scored and self.ppm is not None else "none"
        return {"model.name": self.policy.digest, "search.ppm": ppm}


def config_for(recipe: Recipe, pair: Models, *, scored: bool, **search: Any) -> Config:
    """The configuration of a solver with the models in use; `search` are options of that section.

    The base is asked with `policy.prompt` unless it is the policy of this package; what was trained
    is asked by its own short prompt.
    """
    options: dict[str, Any] = {**search}
    if scored and pair.ppm is not None:
        options |= {"scorer": "ppm", "ppm": pair.ppm.folder}
    trained = pair.policy.round > 0 or recipe.base_model == TRAINED
    prompt = "trained" if trained else recipe.policy.prompt
    return recipe.config(
        model=recipe.model.model_copy(update={"url": pair.policy.address}),
        policy=recipe.policy.model_copy(update={"prompt": prompt}),
        search=recipe.search.model_copy(update=options),
    )


def teacher_config(recipe: Recipe, model: ModelConfig, **search: Any) -> Config:
    """The configuration of a solver with a model that a round names for itself."""
    return recipe.config(
        model=model,
        policy=recipe.policy,
        search=recipe.search.model_copy(update=search),
    )


def weights_digest(folder: Path) -> str:
    """A hash of a checkpoint's weights."""
    parts = [file_digest(path) for path in sorted(folder.glob(WEIGHTS))]
    return "-".join(parts)


OnProblem = Callable[[Problem, PackedResult], None]


async def search(
    path: Path,
    problems: Sequence[Problem],
    strategies: Sequence[Strategy],
    config: Config,
    *,
    made_by: dict[str, str],
    guided: bool = False,
    on_done: OnProblem | None = None,
    cluster: str | None = None,
) -> None:
    """Search problems into a run, or do what is left of it. `made_by` names the models by what they
    are (hashes), since their places may move; `cluster` says whose workers search, by default this
    process. Raises the first `RstarError`."""
    how = run_conditions(config, guided=guided) | {"model.name": None, "search.ppm": None} | made_by
    with RunStore.open(path, how, default_conditions()) as store:
        store.add_problems(problems)
        wanted = {problem.id for problem in problems}
        if all(wanted <= store.done(s.name) for s in strategies):
            return
        async with open_searcher(config, cluster) as searchers:
            for strategy in strategies:
                await solve_problems(
                    searchers, store, strategy, problems, guided=guided, on_done=on_done
                )


def finished_in(path: Path, strategy: Strategy) -> set[str]:
    """Ids of the problems that a strategy has finished in a run, which need not be there yet; of
    one that was only just begun, or is damaged, none: whoever opens it next is told."""
    if path.is_file():
        with suppress(StoreError), RunStore.read(path) as store:
            return store.done(strategy.name)
    return set()


def solved_in(path: Path) -> dict[str, bool]:
    """For each searched problem of a run whether any path solved it."""
    found: dict[str, bool] = {}
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                solved = any_path_correct(store.tree(result.problem, name))
                found[result.problem] = found.get(result.problem, False) or solved
    return found


def by_success(path: Path) -> dict[str, int]:
    """How many of a guided run's problems are easy, medium, hard and unsolved for the policy, by
    how likely it is to come to the reference (`evaluation.reranking`)."""
    found = dict.fromkeys((*(name for _, name in THRESHOLDS), UNSOLVED), 0)
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                success = of_tree(store.tree(result.problem, name))
                found[label(success.rate if success else 0.0)] += 1
    return found


def searched(paths: Sequence[Path]) -> Iterator[SearchedProblem]:
    """The problems of several runs, each once, with the trees of all of them; the trees of the nth
    run (from 2) are named `STRATEGY/n`."""
    stores = [RunStore.read(path) for path in paths]
    try:
        names = [[(name, store.done(name)) for name in store.strategies()] for store in stores]
        for problem in stores[0].problems():
            trees = tuple(
                (name if number == 1 else f"{name}/{number}", store.tree(problem.id, name))
                for number, store in enumerate(stores, 1)
                for name, done in names[number - 1]
                if problem.id in done
            )
            if trees:
                yield SearchedProblem(problem, trees)
    finally:
        for store in stores:
            store.close()


def run_account(path: Path) -> Facts:
    """What a run came to: counts, cost without the clock, and a hash of its problems and trees."""
    costs: list[Cost] = []
    failures: Counter[str] = Counter()
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                costs.append(result.cost)
                failures.update(result.failures)
        digest = store.digest()
    return {
        "searches": len(costs),
        "cost": of_the_search(Cost.total(costs)),
        "failures": dict(sorted(failures.items())),
        "digest": digest,
    }


def of_the_search(cost: Cost) -> dict[str, float]:
    """The parts of a cost that say what a search did, and not how its servers fared."""
    parts = asdict(cost)
    return {k: v for k, v in parts.items() if v and k not in ENVIRONMENT_FIELDS}


SFT, PAIRS, DATA = "sft.jsonl", "pairs.jsonl", "data"
TINY = "tiny"
"""The base that is made on the spot."""
_SHOWN, _VOCABULARY, _COPYING = 200, 512, 250
"""Of a tiny model: problems and solutions that its tokenizer is made from, its tokens, and the
steps in which it learns to copy a number."""
R = TypeVar("R", SftRow, PreferenceRow)
_PREFIX = {"transformers": "hf:", "vllm": VLLM}
Say = Callable[[str], None]


async def choose_data(
    journal: ManifestStore, recipe: Recipe, number: int, runs: Sequence[Path]
) -> Facts:
    """Curate a round's runs into `round-N/data`, and write what its models are trained on:
    solutions to `round-N/sft.jsonl`, pairs to `round-N/pairs.jsonl`."""
    report: Facts = {"left_out": {}}
    rows: list[SftRow] = []
    pairs: list[PreferenceRow] = []
    if recipe.rounds[number - 1].data == "annotated":
        solved = solutions_in(journal)[: recipe.rounds[0].problems]
        rows, report["left_out"] = annotated_rows(solved, FORMATS[recipe.curation.format])
    else:
        report |= await _curated(journal, recipe, number, runs)
        rows = _rows(journal.path(f"round-{number}", DATA, SFT), SftRow)
        pairs = _rows(journal.path(f"round-{number}", DATA, "preference.jsonl"), PreferenceRow)
    report["solutions"] = len(rows)
    report["problems"] = len({row.problem for row in rows})
    if recipe.train_on == "all_rounds":
        for before in range(number - 1, 0, -1):
            rows += read_rows(journal.path(f"round-{before}", SFT), SftRow)
            pairs += _rows(journal.path(f"round-{before}", DATA, "preference.jsonl"), PreferenceRow)
        doubted = {one["problem"] for one in report.get("unreliable", ())}
        doubted |= unreliable_in_earlier_rounds(journal, number)
        rows = [row for row in rows if row.problem not in doubted]
        pairs = [pair for pair in pairs if pair.problem not in doubted]
    unique = list({(row.problem, row.completion): row for row in rows}.values())
    if not unique:
        raise InputError(
            f"Round {number} found no right solution to learn from; search more problems or with "
            "more rollouts, or begin with a stronger model (rounds.1.model) or annotated solutions."
        )
    path, other = (journal.path(f"round-{number}", name) for name in (SFT, PAIRS))
    write_rows(path, SftRow, unique)
    hashes: Facts = {"file": file_digest(path), "pairs_file": None}
    if pairs:
        write_rows(other, PreferenceRow, pairs)
        hashes["pairs_file"] = file_digest(other)
        hashes["pairs_to_train_on"] = len(pairs)
    return {**report, "to_train_on": len(unique), **hashes}


def _rows(file: Path, kind: type[R]) -> list[R]:
    """The rows of a file; none where there is no such file."""
    return read_rows(file, kind) if file.is_file() else []


async def _curated(
    journal: ManifestStore, recipe: Recipe, number: int, runs: Sequence[Path]
) -> Facts:
    """Write the folder of a round's data; the counts."""
    async with grader(recipe.grading) as judges:
        found = await curate(searched(runs), judges.group, recipe.curation)
    with RunStore.read(runs[0]) as store:
        origin = DatasetSource(
            runs[0].name, store.digest(), store.conditions(), tuple(store.strategies())
        )
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


def train_round_policy(
    journal: ManifestStore, recipe: Recipe, number: int, base: str, say: Say
) -> Facts:
    """Train a round's policy from `base`."""
    from rstar_math.training.sft import train_policy

    out = journal.path(f"round-{number}", "policy")
    data = journal.path(f"round-{number}", SFT)
    if is_complete(out):
        return _report(out)
    sft = recipe.sft.model_copy(update={"mode": recipe.policy.mode})
    if recipe.launcher:
        run_launcher(recipe.launcher, ["policy", str(data), "--base", base], out, sft, log=say)
    else:
        train_policy(read_rows(data, SftRow), base, out, sft, log=say)
    return _report(out)


def train_round_ppm(
    journal: ManifestStore, recipe: Recipe, number: int, policy: ModelVersion, say: Say
) -> Facts | None:
    """Train a round's preference model from its policy; None where the round has no pairs."""
    from rstar_math.training.preference import train_preference
    from rstar_math.training.probe import train_probe

    out = journal.path(f"round-{number}", "ppm")
    data = journal.path(f"round-{number}", PAIRS)
    if not data.is_file():
        return None
    if is_complete(out):
        return _report(out)
    mode = {"mode": recipe.policy.mode}
    preference = recipe.preference.model_copy(update=mode)
    if recipe.launcher and not recipe.ppm_probe:
        training = ["ppm", str(data), "--base", policy.folder]
        training += ["--objective", preference.objective]
        run_launcher(recipe.launcher, training, out, preference, log=say)
        return _report(out)
    rows = read_rows(data, PreferenceRow)
    if recipe.ppm_probe:
        train_probe(rows, policy.folder, out, recipe.probe.model_copy(update=mode), log=say)
    else:
        train_preference(rows, policy.folder, out, preference, log=say)
    return _report(out)


def deploy_policy(recipe: Recipe, folder: Path) -> str:
    """The address of a policy for a solver; for llama.cpp its .gguf file, written if need be."""
    if recipe.int8:
        return f"{VLLM}{_int8(folder, folder.with_name(f'{folder.name}-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_PREFIX[recipe.engine]}{folder}"
    return _gguf_of(folder, folder.with_suffix(".gguf"))


def _int8(folder: Path, out: Path) -> Path:
    """A checkpoint with 8-bit weights, written if it is not there."""
    from rstar_math.checkpoints.vllm_export import write_int8

    if not is_complete(out):
        write_int8(folder, out)
    return out


def _gguf_of(folder: Path, file: Path) -> str:
    """The .gguf file of a checkpoint, written if it is not there."""
    from rstar_math.checkpoints.gguf_export import write_gguf

    if not file.is_file():
        write_gguf(folder, file)
    return str(file)


def base_of(journal: ManifestStore, recipe: Recipe) -> str:
    """What the policies are trained from; a tiny model, and the checkpoint of "trained" (whose name
    tells which), are made when they are first asked for."""
    if recipe.base_model == TRAINED:
        return str(trained_folder())
    if recipe.base_model != TINY:
        meant = parse_base(recipe.base_model)
        here = meant.kind in ("packaged", "file", "folder")
        return meant.text if here else str(resolve_model(meant))
    folder = journal.path("base")
    if not folder.is_dir():
        from rstar_math.training.tiny_model import save_tiny_policy

        texts = [problem.question.text for problem in problems_in(journal, TRAIN)[:_SHOWN]]
        if recipe.rounds[0].data == "annotated":
            rows, _ = annotated_rows(
                solutions_in(journal)[:_SHOWN], FORMATS[recipe.curation.format]
            )
            texts += [row.completion for row in rows]
        sizes: dict[str, Any] = {
            "size": 64,
            "layers": 2,
            "weight_std": 0.1,
            "vocabulary": _VOCABULARY,
        }
        save_tiny_policy(folder, **sizes, texts=texts, copying_steps=_COPYING)
    return str(folder)


def make_base(journal: ManifestStore, recipe: Recipe) -> Facts:
    """Make a tiny base, where it is not made yet; what it came to."""
    return {"weights": weights_digest(Path(base_of(journal, recipe)))}


def base_address(journal: ManifestStore, recipe: Recipe) -> str:
    """The address of the base for a solver."""
    if recipe.base_model == TRAINED and recipe.engine == "llama.cpp":
        return TRAINED
    base = base_of(journal, recipe)
    if recipe.engine == "vllm" and (base == LOCAL or base.endswith(".gguf")):
        base = str(_save_checkpoint_of(journal, base))
    if recipe.int8:
        return f"{VLLM}{_int8(Path(base), journal.path('base-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_PREFIX[recipe.engine]}{base}"
    if base == LOCAL or base.endswith(".gguf"):
        return base
    if parse_base(recipe.base_model).kind == "hub-checkpoint":
        return _gguf_of(Path(base), journal.path("base.gguf"))  # not into the hub client's cache
    return deploy_policy(recipe, Path(base))


def base_digest(recipe: Recipe) -> str:
    """What tells a base from others, for a run's conditions."""
    if recipe.base_model != TRAINED:
        return f"base {recipe.base_model}"
    with bundled_adapter("policy") as (_, mark):
        return f"base {recipe.base_model} {mark}"


def _save_checkpoint_of(journal: ManifestStore, base: str) -> Path:
    """The checkpoint of a model that is one file, for servers that read folders; written when it
    is first asked for."""
    folder = journal.path("base")
    if not is_complete(folder):
        model, tokenizer = load_policy(base)
        with save_checkpoint(folder, {"kind": "policy", "from": base}) as part:
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


def results_of(path: Path, strategy: str) -> dict[str, bool]:
    """For each graded problem of a run whether a strategy's answer is right."""
    with RunStore.read(path) as store:
        found = store.results(strategy)
        return {r.problem: r.verdict is Verdict.RIGHT for r in found if r.verdict is not None}
