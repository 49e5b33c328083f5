"""Exports results as inspect_ai logs and lm-eval results.

Neither package is needed to write them. What they have no place for (trees, costs by kind, votes)
goes into `metadata`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

from rstar_math import __version__
from rstar_math.evaluation.metrics import Summary, summarise
from rstar_math.evaluation.results import problems_hash
from rstar_math.files import unique_names, write_text
from rstar_math.prompts.grammar import TAGS
from rstar_math.runs.results import Result
from rstar_math.runs.store import RunStore
from rstar_math.types import Problem, Verdict

_SCORER = "rstar_grader"


def names_of(paths: Sequence[Path]) -> list[str]:
    """A name for each run's files: its own, with the folder's or else its number where two are the
    same."""
    whole, stems = [path.resolve() for path in paths], [path.stem for path in paths]
    return unique_names(whole, stems, folder="-", number="-")


def write_inspect_logs(path: Path, folder: Path, name: str | None = None) -> list[Path]:
    """Write a run's results as logs of inspect_ai, one a strategy, under a name (by default the
    run's), and return the files. They are read with `inspect_ai.log.read_eval_log` and shown by
    `inspect view`."""
    written = []
    with RunStore.read(path) as store:
        for strategy in store.strategies():
            part = strategy.replace("@", "-")
            written.append(folder / f"{name or path.stem}-{part}.json")
            text = json.dumps(inspect_log(store, strategy), ensure_ascii=False)
            write_text(written[-1], [text])
    return written


def write_lm_eval(path: Path, folder: Path, name: str | None = None) -> Path:
    """Write a run's results as a results file of lm-eval, a task a strategy, under a name (by
    default the run's), and return it."""
    target = folder / f"results_{name or path.stem}.json"
    with RunStore.read(path) as store:
        write_text(target, [json.dumps(lm_eval_results(store), ensure_ascii=False, indent=2)])
    return target


def inspect_log(store: RunStore, strategy: str) -> dict[str, Any]:
    """A strategy's results as an EvalLog (version 2). An answer that the grader could not decide
    has the score I and says so; a problem without a reference has none."""
    summary = summarise(strategy, store.results(strategy))
    problems = store.problems()
    model = store.metadata().get("model", "unknown")
    metrics = {}
    if summary.accuracy is not None:
        metrics = {
            "accuracy": {"name": "accuracy", "value": summary.accuracy},
            "stderr": {"name": "stderr", "value": _stderr(summary)},
        }
    name = _set_name(problems)
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "created": _created(store),
            "task": f"{name} ({strategy})",
            "task_id": f"{store.path.stem}-{strategy}",
            "run_id": store.path.stem,
            "solver": strategy,
            "dataset": {
                "name": name,
                "samples": summary.problems,
                "sample_ids": [result.problem for result in store.results(strategy)],
                "shuffled": False,
            },
            "model": model,
            "config": {"epochs": 1},
            "packages": {"rstar-math": store.metadata().get("version", "?")},
            "metadata": {
                "conditions": store.conditions(),
                "problems_sha256": problems_hash(problems),
            },
        },
        "plan": {"name": "plan", "steps": [{"solver": strategy, "params": {}}]},
        "results": {
            "total_samples": len(problems),
            "completed_samples": summary.problems,
            "scores": [{"name": _SCORER, "scorer": _SCORER, "metrics": metrics}],
            "metadata": summary.as_json(),
        },
        "stats": {
            "started_at": _created(store),
            "completed_at": _created(store),
            "model_usage": {model: _usage(summary)},
        },
        "samples": list(_samples(store, strategy, problems, model)),
    }


def _samples(
    store: RunStore, strategy: str, problems: list[Problem], model: str
) -> Iterator[dict[str, Any]]:
    """One EvalSample a result."""
    by_id = {problem.id: problem for problem in problems}
    for result in store.results(strategy):
        problem, text = by_id[result.problem], _solution(store, result)
        said = {"role": "assistant", "content": text, "source": "generate", "model": model}
        scores = None
        if result.verdict is not None:
            scores = {
                _SCORER: {
                    "value": "C" if result.verdict is Verdict.RIGHT else "I",
                    "answer": result.choice.answer,
                    "explanation": f"The grader says {result.verdict.value}.",
                }
            }
        yield {
            "id": problem.id,
            "epoch": 1,
            "input": problem.question.text,
            "target": problem.reference or "",
            "messages": [{"role": "user", "content": problem.question.text}, said],
            "output": {"model": model, "choices": [{"message": said, "stop_reason": "stop"}]},
            "scores": scores,
            "metadata": {
                "level": problem.level,
                "share": result.choice.share,
                "votes": result.choice.votes,
                "cost": asdict(result.cost),
                "failures": result.failures,
            },
            "total_time": result.cost.seconds,
        }


def lm_eval_results(store: RunStore) -> dict[str, Any]:
    """A run's results with the keys of lm-eval's results file."""
    problems, conditions = store.problems(), store.conditions()
    name, facts = _set_name(problems), store.metadata()
    found: dict[str, Any] = {
        "results": {},
        "group_subtasks": {},
        "configs": {},
        "versions": {},
        "n-shot": {},
        "higher_is_better": {},
        "n-samples": {},
        "config": {
            "model": "rstar-math",
            "model_args": f"pretrained={facts.get('model', 'unknown')}",
            "random_seed": conditions.get("search.seed"),
            "limit": None,
        },
        "model_source": "rstar-math",
        "model_name": facts.get("model", "unknown"),
        "date": datetime.fromisoformat(_created(store)).timestamp(),
        "rstar_math": {"conditions": conditions, "version": facts.get("version", __version__)},
    }
    for strategy in store.strategies():
        summary = summarise(strategy, store.results(strategy))
        task = f"{name}_{strategy.replace('@', '_')}"
        stderr = _stderr(summary)
        found["results"][task] = {
            "alias": task,
            "exact_match,rstar": summary.accuracy,
            "exact_match_stderr,rstar": "N/A" if stderr is None else stderr,
        }
        found["group_subtasks"][task] = []
        found["configs"][task] = {
            "task": task,
            "dataset_path": name,
            "output_type": "generate_until",
            "metric_list": [{"metric": "exact_match", "aggregation": "mean"}],
            "metadata": {"strategy": strategy, **summary.as_json()},
        }
        found["versions"][task] = 1
        found["n-shot"][task] = 0
        found["higher_is_better"][task] = {"exact_match": True}
        found["n-samples"][task] = {"original": len(problems), "effective": summary.graded}
    return found


def _solution(store: RunStore, result: Result) -> str:
    """The chosen path as text."""
    if result.choice.node is None:
        return ""
    tree = store.tree(result.problem, result.strategy)
    return TAGS.render(tree.prefix(result.choice.node))


def _stderr(summary: Summary) -> float | None:
    """The standard error of the share right, as both tools have it; None for fewer than two."""
    n, share = summary.graded, summary.accuracy
    return None if share is None or n < 2 else sqrt(share * (1 - share) / (n - 1))


def _usage(summary: Summary) -> dict[str, int]:
    """Tokens under inspect's names."""
    cost = summary.cost
    return {
        "input_tokens": cost.prompt_tokens,
        "output_tokens": cost.sampled_tokens,
        "total_tokens": cost.prompt_tokens + cost.sampled_tokens,
        "input_tokens_cache_read": cost.cached_tokens,
    }


def _created(store: RunStore) -> str:
    """When the run was last written, in UTC."""
    return datetime.fromtimestamp(store.path.stat().st_mtime, UTC).isoformat()


def _set_name(problems: list[Problem]) -> str:
    """What the problems are called: their source, or what their ids begin with."""
    names = {problem.source or problem.id.partition("/")[0] for problem in problems}
    return names.pop() if len(names) == 1 else "problems"
