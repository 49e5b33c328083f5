"""A PPM learns to rank steps whose true values are known, from search to scorer."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs torch: pip install 'rstar-math[train]'")


def test_a_ppm_ranks_the_steps_of_unseen_problems(tmp_path: Path) -> None:
    from benchmarks import toy_ppm

    rows = toy_ppm.data(toy_ppm.world(0), 40)
    pairs = toy_ppm.contests(toy_ppm.world(toy_ppm.UNSEEN), 12)
    assert len(pairs) > 100
    texts = [row.prompt + row.completion for row in rows["outcome"][:200]]
    toy_ppm.save_random_policy(tmp_path / "random", texts, 0)
    toy_ppm.trained("ppm", rows["preference"], tmp_path / "random", tmp_path / "ppm", 60_000)
    hits = toy_ppm.ranked(tmp_path / "ppm", pairs)
    assert sum(hits.values()) / len(hits) >= 0.9
