"""Shards from the command line."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rstar_math.runs.store import RunStore
from rstar_math.testing import serving
from tests.e2e.rstar import rstar, write_problems


def said(body: Mapping[str, Any]) -> list[str]:
    """An answer at once, right half of the time."""
    rng = random.Random(f"{body['seed']} {body['prompt']}")
    return [f"It is \\boxed{{{3 + rng.randrange(2)}}}.\n<answer/>" for _ in range(body["n"])]


def test_two_drivers_and_a_merge_come_to_one_run(tmp_path: Path) -> None:
    problems = write_problems(tmp_path, 5)
    runs = {name: tmp_path / name for name in ("1/2", "2/2", "whole")}
    runs = {name: tmp_path / name.replace("/", "-") for name in runs}
    with serving(said) as fake:
        for name, path in runs.items():
            args = ["search", problems, "--run", path, "--model", fake.url, "--json"]
            args += ["--set", "search.rollouts=2", "--set", "search.candidates=2"]
            done = rstar(*args, *(["--shard", name] if "/" in name else []))
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["problems"] == {"1/2": 3, "2/2": 2}.get(name, 5)
    out = tmp_path / "out"
    merged = rstar("merge", out, runs["2/2"], runs["1/2"], "--json")
    assert json.loads(merged.stdout) == {
        "run": str(out),
        "problems": 5,
        "results": 5,
        "added": 5,
        "duplicates": 0,
        "differing": 0,
    }
    with RunStore.read(out) as one, RunStore.read(runs["whole"]) as whole:
        assert one.digest() == whole.digest()
    assert rstar("merge", out, runs["whole"]).stdout.splitlines()[1].startswith("5 results present")
