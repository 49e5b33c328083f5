"""Exports results as logs of inspect_ai and results files of lm-eval.

Neither package is required. Data without a field in these formats (costs by kind, votes, failures)
is stored under `metadata`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from typing import Any

from rstar_math import __version__
from rstar_math.evaluation.metrics import Summary, summarize
from rstar_math.evaluation.results import problems_hash
from rstar_math.files import file_name, unique_names, write_text
from rstar_math.prompts.grammar import TAGS
from rstar_math.runs.results import Result
from rstar_math.runs.store import RunStore
from rstar_math.types import Problem, Verdict

_SCORER = "rstar_grader"


def export_names(paths: Sequence[Path]) -> list[str]:
    """A distinct name for the exported files of each run.

    It is the stem of the run file, followed by its folder or its number if two are equal.
    """
    resolved, stems = [path.resolve() for path in paths], [path.stem for path in paths]
    return unique_names(resolved, stems, folder_end="-", number_end="-")


def write_inspect_logs(path: Path, folder: Path, name: str | None = None) -> list[Path]:
    """Write one inspect_ai log per strategy of a run and return the files.

    `name` is the prefix of the file names, by default the stem of the run file. The logs can be
    read with `inspect_ai.log.read_eval_log` and `inspect view`.
    """
    written = []
    with RunStore.read(path) as store:
        for strategy in store.strategies():
            written.append(folder / f"{name or path.stem}-{file_name(strategy)}.json")
            text = json.dumps(inspect_log(store, strategy), ensure_ascii=False)
            write_text(written[-1], [text])
    return written


def write_lm_eval(path: Path, folder: Path, name: str | None = None) -> Path:
    """Write an lm-eval results file with one task per strategy of a run, and return the file.

    `name` is part of the file name, by default the stem of the run file.
    """
    target = folder / f"results_{name or path.stem}.json"
    with RunStore.read(path) as store:
        write_text(target, [json.dumps(lm_eval_results(store), ensure_ascii=False, indent=2)])
    return target


def inspect_log(store: RunStore, strategy: str) -> dict[str, Any]:
    """The results of a strategy as an EvalLog (version 2).

    An answer that the grader could not decide has the score I and an explanation. A problem without
    a reference has no score.
    """
    summary = summarize(strategy, store.results(strategy))
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
    """One EvalSample per result."""
    by_id = {problem.id: problem for problem in problems}
    for result in store.results(strategy):
        problem, text = by_id[result.problem], _solution(store, result)
        reply = {"role": "assistant", "content": text, "source": "generate", "model": model}
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
            "input": problem.question.shown,
            "target": problem.reference_text or "",
            "messages": [{"role": "user", "content": problem.question.shown}, reply],
            "output": {"model": model, "choices": [{"message": reply, "stop_reason": "stop"}]},
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
    """The results of a run in the format of lm-eval's results file."""
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
        summary = summarize(strategy, store.results(strategy))
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
    """The standard error of the accuracy, as both tools define it; None for fewer than two."""
    n, share = summary.graded, summary.accuracy
    return None if share is None or n < 2 else sqrt(share * (1 - share) / (n - 1))


def _usage(summary: Summary) -> dict[str, int]:
    """The token counts under the keys of inspect_ai."""
    cost = summary.cost
    return {
        "input_tokens": cost.prompt_tokens,
        "output_tokens": cost.sampled_tokens,
        "total_tokens": cost.prompt_tokens + cost.sampled_tokens,
        "input_tokens_cache_read": cost.cached_tokens,
    }


def _created(store: RunStore) -> str:
    """The time of the run's last modification, in UTC."""
    return datetime.fromtimestamp(store.path.stat().st_mtime, UTC).isoformat()


def _set_name(problems: list[Problem]) -> str:
    """The name of the problem set: the common source or id prefix of its problems."""
    names = {problem.source or problem.id.partition("/")[0] for problem in problems}
    return names.pop() if len(names) == 1 else "problems"
