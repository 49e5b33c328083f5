"""The work of a round's stages: search, curation, training, deployment."""

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
from rstar_math.evaluation.reranking import THRESHOLDS, UNSOLVED, difficulty, success_rate
from rstar_math.evolution.manifest import ManifestStore, StageResult, file_digest
from rstar_math.evolution.problem_sets import (
    TRAIN,
    read_annotated_solutions,
    read_problem_file,
    unreliable_in_earlier_rounds,
)
from rstar_math.evolution.recipe import Recipe
from rstar_math.models.downloads import resolve_model
from rstar_math.models.loading import bundled_checkpoint, load_policy
from rstar_math.models.names import parse_base
from rstar_math.prompts.grammar import FORMATS
from rstar_math.runs.execute import ResultCallback, solve_problems
from rstar_math.runs.export import write_rows
from rstar_math.runs.results import (
    SearchedProblem,
    any_path_correct,
    default_conditions,
    run_conditions,
)
from rstar_math.runs.store import RunStore
from rstar_math.search.strategies import Strategy
from rstar_math.training.curation.curate import curate
from rstar_math.training.dataset import DatasetSource, write_folder
from rstar_math.training.rows import PreferenceRow, SftRow, annotated_rows, read_rows
from rstar_math.training.sft import run_launcher
from rstar_math.types import Cost, Problem, Verdict
from rstar_math.verification.judges import Judges

WEIGHTS = "*.safetensors"
SFT, PAIRS, DATA = "sft.jsonl", "pairs.jsonl", "data"
TINY = "tiny"
"""The base model that is created at the start of an evolution."""
_TINY_TEXTS = 200
"""Number of problems and of solutions that the tiny model's tokenizer is trained on."""
_TINY_VOCABULARY = 512
_TINY_COPY_STEPS = 250
"""Training steps in which the tiny model learns to copy a number."""
_ADDRESS_PREFIX = {"transformers": "hf:", "vllm": VLLM}
R = TypeVar("R", SftRow, PreferenceRow)
LogLine = Callable[[str], None]
"""Receives the log lines of a training."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model that a round trained. Round 0 is the base model."""

    round: int
    folder: str
    """A checkpoint folder; for the base model whatever `models.loading.load_policy` accepts."""
    address: str
    """The value of `model.url` that runs it; "" for a preference model."""
    digest: str
    """A hash of its weights; for the base model its name."""


@dataclass(frozen=True, slots=True)
class Models:
    """The current policy and the current preference model, if there is one."""

    policy: ModelVersion
    ppm: ModelVersion | None = None

    def with_policy(self, policy: ModelVersion) -> "Models":
        """A copy with another policy."""
        return replace(self, policy=policy)

    def with_ppm(self, ppm: ModelVersion) -> "Models":
        """A copy with another preference model."""
        return replace(self, ppm=ppm)

    async def manifest(self) -> StageResult:
        """The rounds that trained the two models: the result of the stage `manifest.ROUND`."""
        return {"policy": self.policy.round, "ppm": self.ppm and self.ppm.round}

    def digests(self, *, use_ppm: bool) -> dict[str, str]:
        """The models' hashes as conditions of a run."""
        ppm = self.ppm.digest if use_ppm and self.ppm is not None else "none"
        return {"model.name": self.policy.digest, "search.ppm": ppm}


def config_for(recipe: Recipe, models: Models, *, use_ppm: bool, **search: Any) -> Config:
    """The configuration of a solver with the current models; `search` overrides that section.

    The prompt is `policy.prompt` for the base model, and "trained" for trained policies. The
    policy that this package ships counts as trained.
    """
    options: dict[str, Any] = {**search}
    if use_ppm and models.ppm is not None:
        options |= {"scorer": "ppm", "ppm": models.ppm.folder}
    trained = models.policy.round > 0 or recipe.base_model == TRAINED
    prompt = "trained" if trained else recipe.policy.prompt
    return recipe.solver_config(
        model=recipe.model.model_copy(update={"url": models.policy.address}),
        policy=recipe.policy.model_copy(update={"prompt": prompt}),
        search=recipe.search.model_copy(update=options),
    )


def teacher_config(recipe: Recipe, model: ModelConfig, **search: Any) -> Config:
    """The configuration of a solver with a model that the recipe names, such as the strong model
    of the first round; `search` overrides that section."""
    return recipe.solver_config(
        model=model,
        policy=recipe.policy,
        search=recipe.search.model_copy(update=search),
    )


def weights_digest(folder: Path) -> str:
    """A hash of a checkpoint's weights."""
    return "-".join(file_digest(path) for path in sorted(folder.glob(WEIGHTS)))


async def search_problems(
    path: Path,
    problems: Sequence[Problem],
    strategies: Sequence[Strategy],
    config: Config,
    *,
    digests: dict[str, str],
    guided: bool = False,
    on_done: ResultCallback | None = None,
    cluster: str | None = None,
) -> None:
    """Search the problems that the run file `path` lacks.

    `digests` identifies the models in the run's conditions, because their folders may move.
    `cluster` names a Ray cluster; None searches in this process. Raises the first `RstarError`;
    finished searches are kept.
    """
    conditions = run_conditions(config, guided=guided)
    conditions |= {"model.name": None, "search.ppm": None} | digests
    with RunStore.open(path, conditions, default_conditions()) as store:
        store.add_problems(problems)
        wanted = {problem.id for problem in problems}
        if all(wanted <= store.done(strategy.name) for strategy in strategies):
            return
        async with open_searcher(config, cluster) as searcher:
            for strategy in strategies:
                await solve_problems(
                    searcher, store, strategy, problems, guided=guided, on_done=on_done
                )


def finished_problems(path: Path, strategy: Strategy) -> set[str]:
    """Ids of the problems that a strategy has finished in a run.

    Empty if the run does not exist, is empty or is damaged; opening it to write reports that.
    """
    if path.is_file():
        with suppress(StoreError), RunStore.read(path) as store:
            return store.done(strategy.name)
    return set()


def solved_problems(path: Path) -> dict[str, bool]:
    """Whether any path solved it, for each searched problem of a run."""
    solved: dict[str, bool] = {}
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                correct = any_path_correct(store.tree(result.problem, name))
                solved[result.problem] = solved.get(result.problem, False) or correct
    return solved


def count_by_difficulty(path: Path) -> dict[str, int]:
    """Number of a guided run's problems that are easy, medium, hard or unsolved for the policy.

    The label follows from the policy's success rate; see `evaluation.reranking`.
    """
    counts = dict.fromkeys((*(name for _, name in THRESHOLDS), UNSOLVED), 0)
    with RunStore.read(path) as store:
        for name in store.strategies():
            for result in store.results(name):
                rate = success_rate(store.tree(result.problem, name))
                counts[difficulty(rate or 0.0)] += 1
    return counts


def read_searches(paths: Sequence[Path]) -> Iterator[SearchedProblem]:
    """The problems of the first run, each with its trees from all runs.

    The trees of the nth run, counted from 1, are named `STRATEGY/n`; those of the first run just
    `STRATEGY`. Problems without a tree are left out.
    """
    stores = [RunStore.read(path) for path in paths]
    try:
        done = [{name: store.done(name) for name in store.strategies()} for store in stores]
        for problem in stores[0].problems():
            trees = tuple(
                (name if number == 1 else f"{name}/{number}", store.tree(problem.id, name))
                for number, store in enumerate(stores, 1)
                for name, finished in done[number - 1].items()
                if problem.id in finished
            )
            if trees:
                yield SearchedProblem(problem, trees)
    finally:
        for store in stores:
            store.close()


def run_summary(path: Path) -> StageResult:
    """Number of searches, total cost, failures by reason, and a hash of problems and trees."""
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
        "cost": reproducible_cost(Cost.total(costs)),
        "failures": dict(sorted(failures.items())),
        "digest": digest,
    }


def reproducible_cost(cost: Cost) -> dict[str, float]:
    """The nonzero fields of a cost that do not depend on servers or the clock."""
    return {k: v for k, v in asdict(cost).items() if v and k not in ENVIRONMENT_FIELDS}


async def write_training_data(
    manifests: ManifestStore, recipe: Recipe, number: int, runs: Sequence[Path]
) -> StageResult:
    """Write what round `number` trains on: solutions to `sft.jsonl`, pairs to `pairs.jsonl`.

    The solutions and pairs come from curating `runs` into `round-N/data`, or from annotated
    solutions. With `train_on = "all_rounds"` those of earlier rounds are appended, without
    problems that any round found unreliable. Raises `InputError` if there is no solution.
    """
    report: StageResult = {"left_out": {}}
    rows: list[SftRow] = []
    pairs: list[PreferenceRow] = []
    if recipe.rounds[number - 1].data == "annotated":
        solutions = read_annotated_solutions(manifests)[: recipe.rounds[0].problems]
        rows, report["left_out"] = annotated_rows(solutions, FORMATS[recipe.curation.format])
    else:
        report |= await _curate_runs(manifests, recipe, number, runs)
        rows = _read_rows(manifests.path(f"round-{number}", DATA, SFT), SftRow)
        pairs = _read_rows(_pairs_of_round(manifests, number), PreferenceRow)
    report["solutions"] = len(rows)
    report["problems"] = len({row.problem for row in rows})
    if recipe.train_on == "all_rounds":
        for earlier in range(number - 1, 0, -1):
            rows += read_rows(manifests.path(f"round-{earlier}", SFT), SftRow)
            pairs += _read_rows(_pairs_of_round(manifests, earlier), PreferenceRow)
        unreliable = {entry["problem"] for entry in report.get("unreliable", ())}
        unreliable |= unreliable_in_earlier_rounds(manifests, number)
        rows = [row for row in rows if row.problem not in unreliable]
        pairs = [pair for pair in pairs if pair.problem not in unreliable]
    unique = list({(row.problem, row.completion): row for row in rows}.values())
    if not unique:
        raise InputError(
            f"Round {number} found no right solution to train on; search more problems or use more "
            "rollouts, or start with a stronger model (rounds.1.model) or annotated solutions."
        )
    sft_file = manifests.path(f"round-{number}", SFT)
    write_rows(sft_file, SftRow, unique)
    hashes: StageResult = {"file": file_digest(sft_file), "pairs_file": None}
    if pairs:
        pairs_file = manifests.path(f"round-{number}", PAIRS)
        write_rows(pairs_file, PreferenceRow, pairs)
        hashes["pairs_file"] = file_digest(pairs_file)
        hashes["pairs_to_train_on"] = len(pairs)
    return {**report, "to_train_on": len(unique), **hashes}


def _pairs_of_round(manifests: ManifestStore, number: int) -> Path:
    """The pairs that a round's curation wrote."""
    return manifests.path(f"round-{number}", DATA, "preference.jsonl")


def _read_rows(file: Path, kind: type[R]) -> list[R]:
    """The rows of a file; empty if it does not exist."""
    return read_rows(file, kind) if file.is_file() else []


async def _curate_runs(
    manifests: ManifestStore, recipe: Recipe, number: int, runs: Sequence[Path]
) -> StageResult:
    """Curate runs into `round-N/data`; the counts."""
    async with Judges(recipe.grading, recipe.sandbox) as judges:
        curated = await curate(read_searches(runs), judges.grouper, recipe.curation)
    with RunStore.read(runs[0]) as store:
        source = DatasetSource(
            runs[0].name, store.digest(), store.conditions(), tuple(store.strategies())
        )
    folder = manifests.path(f"round-{number}", DATA)
    metadata = write_folder(folder, curated, source, recipe.curation)
    unreliable = [asdict(problem) for problem in curated.unreliable]
    return {
        "pairs": len(curated.pairs),
        "suspects": [asdict(suspect) for suspect in curated.suspects],
        **({"unreliable": unreliable} if unreliable else {}),
        "report": metadata["report"],
        "files": {name: entry["rows"] for name, entry in metadata["files"].items()},
    }


def train_round_policy(
    manifests: ManifestStore, recipe: Recipe, number: int, base: str, log: LogLine
) -> StageResult:
    """Train the policy of round `number` from `base`, unless it is trained; the report."""
    from rstar_math.training.sft import train_policy

    out = manifests.path(f"round-{number}", "policy")
    data = manifests.path(f"round-{number}", SFT)
    if is_complete(out):
        return _training_report(out)
    sft = recipe.sft.model_copy(update={"mode": recipe.policy.mode})
    if recipe.launcher:
        run_launcher(recipe.launcher, ["policy", str(data), "--base", base], out, sft, log=log)
    else:
        train_policy(read_rows(data, SftRow), base, out, sft, log=log)
    return _training_report(out)


def train_round_ppm(
    manifests: ManifestStore, recipe: Recipe, number: int, policy: ModelVersion, log: LogLine
) -> StageResult | None:
    """Train the preference model of round `number` from `policy`, unless it is trained.

    Returns its report; None if the round has no pairs.
    """
    from rstar_math.training.preference import train_preference
    from rstar_math.training.probe import train_probe

    out = manifests.path(f"round-{number}", "ppm")
    data = manifests.path(f"round-{number}", PAIRS)
    if not data.is_file():
        return None
    if is_complete(out):
        return _training_report(out)
    mode = {"mode": recipe.policy.mode}
    preference = recipe.preference.model_copy(update=mode)
    if recipe.launcher and not recipe.ppm_probe:
        arguments = ["ppm", str(data), "--base", policy.folder]
        arguments += ["--objective", preference.objective]
        run_launcher(recipe.launcher, arguments, out, preference, log=log)
        return _training_report(out)
    rows = read_rows(data, PreferenceRow)
    if recipe.ppm_probe:
        train_probe(rows, policy.folder, out, recipe.probe.model_copy(update=mode), log=log)
    else:
        train_preference(rows, policy.folder, out, preference, log=log)
    return _training_report(out)


def deploy_policy(recipe: Recipe, folder: Path) -> str:
    """The address that runs a checkpoint on the recipe's engine.

    Writes the .gguf file (llama.cpp) or the 8-bit checkpoint (int8) if it is missing.
    """
    if recipe.int8:
        return f"{VLLM}{_write_int8(folder, folder.with_name(f'{folder.name}-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_ADDRESS_PREFIX[recipe.engine]}{folder}"
    return _write_gguf(folder, folder.with_suffix(".gguf"))


def _write_int8(folder: Path, out: Path) -> Path:
    """`out`, a checkpoint with 8-bit weights; written if it is missing."""
    from rstar_math.checkpoints.vllm_export import write_int8

    if not is_complete(out):
        write_int8(folder, out)
    return out


def _write_gguf(folder: Path, file: Path) -> str:
    """`file`, the .gguf file of a checkpoint; written if it is missing."""
    from rstar_math.checkpoints.gguf_export import write_gguf

    if not file.is_file():
        write_gguf(folder, file)
    return str(file)


def base_checkpoint(manifests: ManifestStore, recipe: Recipe) -> str:
    """What policies are trained from: a folder, a .gguf file or "local".

    Downloads a model of the hub and creates the tiny model on first use.
    """
    if recipe.base_model == TRAINED:
        return str(bundled_checkpoint())
    if recipe.base_model != TINY:
        base = parse_base(recipe.base_model)
        is_local = base.kind in ("packaged", "file", "folder")
        return base.text if is_local else str(resolve_model(base))
    folder = manifests.path("base")
    if not folder.is_dir():
        from rstar_math.training.tiny_model import save_tiny_policy

        problems = read_problem_file(manifests, TRAIN)[:_TINY_TEXTS]
        texts = [problem.question.text for problem in problems]
        if recipe.rounds[0].data == "annotated":
            solutions = read_annotated_solutions(manifests)[:_TINY_TEXTS]
            rows, _ = annotated_rows(solutions, FORMATS[recipe.curation.format])
            texts += [row.completion for row in rows]
        save_tiny_policy(
            folder,
            size=64,
            layers=2,
            weight_std=0.1,
            vocabulary=_TINY_VOCABULARY,
            texts=texts,
            copying_steps=_TINY_COPY_STEPS,
        )
    return str(folder)


def create_base(manifests: ManifestStore, recipe: Recipe) -> StageResult:
    """Create the tiny base model if it is missing; a hash of its weights."""
    return {"weights": weights_digest(Path(base_checkpoint(manifests, recipe)))}


def base_address(manifests: ManifestStore, recipe: Recipe) -> str:
    """The address that runs the base model on the recipe's engine; converts it on first use."""
    if recipe.base_model == TRAINED and recipe.engine == "llama.cpp":
        return TRAINED
    base = base_checkpoint(manifests, recipe)
    if recipe.engine == "vllm" and (base == LOCAL or base.endswith(".gguf")):
        base = str(_convert_to_checkpoint(manifests, base))
    if recipe.int8:
        return f"{VLLM}{_write_int8(Path(base), manifests.path('base-int8'))}"
    if recipe.engine != "llama.cpp":
        return f"{_ADDRESS_PREFIX[recipe.engine]}{base}"
    if base == LOCAL or base.endswith(".gguf"):
        return base
    if parse_base(recipe.base_model).kind == "hub-checkpoint":
        # Not next to the checkpoint: that folder is the hub client's cache.
        return _write_gguf(Path(base), manifests.path("base.gguf"))
    return deploy_policy(recipe, Path(base))


def base_digest(recipe: Recipe) -> str:
    """What identifies the base model in a run's conditions."""
    if recipe.base_model != TRAINED:
        return f"base {recipe.base_model}"
    with bundled_adapter("policy") as (_, adapter_digest):
        return f"base {recipe.base_model} {adapter_digest}"


def _convert_to_checkpoint(manifests: ManifestStore, base: str) -> Path:
    """The checkpoint folder of a single-file model, for vLLM; written if it is missing."""
    folder = manifests.path("base")
    if not is_complete(folder):
        model, tokenizer = load_policy(base)
        with save_checkpoint(folder, {"kind": "policy", "from": base}) as partial:
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    return folder


def _training_report(out: Path) -> StageResult:
    """The report of a finished training, with a hash of the weights; without loss curves."""
    report: dict[str, Any] = read_notes(out).get("report", {})
    held_out = dict(report.get("held_out") or {})
    held_out.pop("calibration", None)
    kept = {key: value for key, value in report.items() if key not in ("losses", "held_out")}
    return {
        **kept,
        **({"held_out": held_out} if held_out else {}),
        "weights": weights_digest(out),
    }


def correct_by_problem(path: Path, strategy: str) -> dict[str, bool]:
    """Whether a strategy's answer is right, for each graded problem of a run."""
    with RunStore.read(path) as store:
        return {
            result.problem: result.verdict is Verdict.RIGHT
            for result in store.results(strategy)
            if result.verdict is not None
        }
