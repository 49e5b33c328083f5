"""Mutual reasoning in a toy world: when does a second model help?

    python benchmarks/mutual_toy.py [--json] [--plot docs/images/mutual.svg] [--problems N]

A generator writes 9 solutions per problem. A discriminator with its own accuracy completes them
from prefixes (`rstar_math.testing.ToyPeers`). The benchmark varies the accuracies, the correlation
of their errors (rho), and how often the discriminator follows the prefix. Two settings are used:
that of rStar's code (4 splits at 20 to 50 %, half of the completions must agree, answers ranked by
the number of kept candidates) and that of the paper (1 split at 20 to 80 %, the best trajectory).
It prints the share of problems solved by the generator's majority, by mutual reasoning and by the
discriminator alone (a majority of its own 9 solutions), with 95 % Wilson intervals and the exact
expected values. The last lines state the deviation of measured from expected values.

Simplifications of the toy world: wrong answers never agree by chance, right answers are always
among the candidates, and no solution has a vote or a value.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from toy_peers import ToyPeers, toy_units

from rstar_math.config import MutualConfig, SearchConfig
from rstar_math.evaluation.metrics import wilson
from rstar_math.search import (
    SearchComponents,
    Tree,
    check_solutions,
    choose_by_agreement,
    one_vote_per_path,
    sample_chains,
    votes_of,
)
from rstar_math.testing.toy_world import ToyExecutor
from rstar_math.types import Problem

N = 9
"""Solutions per problem."""
RHOS = (0.0, 0.25, 0.5, 0.75, 1.0)
FOLLOWS = (0.0, 0.25)
PAIRS = ((0.5, 0.3), (0.5, 0.5), (0.5, 0.7), (0.5, 0.9), (0.3, 0.3), (0.7, 0.7))
"""Accuracies of generator and discriminator."""
RULES = {
    "code": MutualConfig(
        splits=4, min_visible=0.2, max_visible=0.5, min_agreement="half", score="code"
    ),
    "paper": MutualConfig(
        splits=1, min_visible=0.2, max_visible=0.8, min_agreement="half", score="paper"
    ),
}
WAYS = ("majority", "mutual", "alone")


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting and its measured results."""

    rule: str
    world: ToyPeers
    hits: dict[str, list[bool]]
    """Outcomes per problem, by selection method."""

    @property
    def name(self) -> str:
        """The name of the setting."""
        w = self.world
        numbers = (("g", w.generator), ("d", w.discriminator), ("rho", w.rho), ("f", w.follow))
        return "_".join([self.rule, *(f"{key}{round(100 * n)}" for key, n in numbers)])

    @property
    def gain(self) -> tuple[float, float]:
        """Accuracy of mutual reasoning minus majority, and half of its 95 % interval, in points."""
        gaps = [a - b for a, b in zip(self.hits["mutual"], self.hits["majority"], strict=True)]
        mean = sum(gaps) / len(gaps)
        spread = sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps) / len(gaps))
        return 100 * mean, 196 * spread


async def same_text(answers: Sequence[str]) -> list[int]:
    """Classes of equal texts."""
    seen: dict[str, int] = {}
    return [seen.setdefault(answer, len(seen)) for answer in answers]


async def answered(problem: Problem, world: ToyPeers, config: MutualConfig) -> list[bool]:
    """Whether each method solves a problem."""
    peer, tree = world.discriminating(), Tree(problem.question)
    parts = SearchComponents(world.generating(), ToyExecutor())
    await sample_chains(tree, N, parts=parts, config=SearchConfig())
    by_vote = await one_vote_per_path(votes_of(tree), same_text)
    await check_solutions(
        tree, discriminator=peer, segments=toy_units, group=same_text, config=config, seed=0
    )
    mutual = await choose_by_agreement(tree, same_text, config)
    own = [answer for answer in await peer.answers(problem.question, "", N, seed=0) if answer]
    alone = max(dict.fromkeys(own), key=own.count)
    return [answer == problem.reference for answer in (by_vote.answer, mutual.answer, alone)]


async def measured(problems: int) -> list[Cell]:
    """Every setting."""
    cells: list[Cell] = []
    for rule, config in RULES.items():
        for follow in FOLLOWS:
            for generator, discriminator in PAIRS:
                for rho in RHOS:
                    world = ToyPeers(generator, discriminator, rho, follow=follow)
                    rows = [await answered(p, world, config) for p in world.problems(problems)]
                    hits = dict(zip(WAYS, map(list, zip(*rows, strict=True)), strict=True))
                    cells.append(Cell(rule, world, hits))
    return cells


def table(cells: Sequence[Cell]) -> dict[str, float]:
    """Print all settings and return their results by name."""
    figures: dict[str, float] = {}
    worst = 0.0
    title = None
    for cell in cells:
        world, expected = cell.world, cell.world.expected(N, RULES[cell.rule])
        if title != (title := (cell.rule, world.follow)):
            print(f"\nrStar's {cell.rule}; the discriminator follows {100 * world.follow:.0f} %")
            heads = "".join(f"{way:>23}" for way in WAYS)
            print(f"{'gen':>4}{'disc':>5}{'rho':>6}{heads}   gain")
        row = f"{world.generator:4.1f}{world.discriminator:5.1f}{world.rho:6.2f}"
        for way in WAYS:
            right, n = sum(cell.hits[way]), len(cell.hits[way])
            exact, (low, high) = getattr(expected, way), wilson(right, n)
            worst = max(worst, abs(right / n - exact) / sqrt(max(exact * (1 - exact), 1 / n) / n))
            figures[f"{cell.name}_{way}"] = right / n
            interval = f"[{100 * low:3.0f}, {100 * high:3.0f}]"
            row += f"{100 * right / n:8.1f} {interval} ({100 * exact:4.1f})"
        gain, spread = cell.gain
        figures[f"{cell.name}_gain"] = gain
        print(f"{row}{gain:+7.1f} ± {spread:.1f}")
    print(f"\nin brackets what is expected; the worst is {worst:.1f} standard deviations off")
    return figures | {"worst_deviations": worst}


def plot(cells: Sequence[Cell], file: str) -> None:
    """Draw the gain against rho, for a generator that knows half of the problems."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    grey = "#757d87"  # readable on light and dark backgrounds
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "mutual", "font.size": 11}
        | {"font.family": "sans-serif", "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"]}
        | {f"{part}.color": grey for part in ("text", "xtick", "ytick")}
        | {"axes.labelcolor": grey, "axes.edgecolor": grey, "axes.titlecolor": grey}
    )
    figure, panels = pyplot.subplots(2, 2, figsize=(9, 7.4), sharex=True, sharey=True)
    for panel, rule, follow in _panels(panels):
        _draw(panel, [c for c in cells if (c.rule, c.world.follow) == (rule, follow)], grey)
        how = f"follows {100 * follow:.0f} % of the time" if follow else "goes its own way"
        panel.set_title(f"rStar's {rule}: the peer {how}", fontsize=11.5, pad=8)
    for panel in panels[1]:
        panel.set_xlabel("how alike the two err, ρ")
    for row in panels:
        row[0].set_ylabel("gain over the majority, points")
    handles, labels = panels[0][0].get_legend_handles_labels()
    legend = figure.legend(
        [*handles, pyplot.Line2D([], [], color=grey, marker="<", linestyle="none")],
        [*labels, "the peer alone"],
        title="Accuracy of the peer (the generator's majority: 50 %)",
        loc="upper center",
        bbox_to_anchor=(0.5, 0.955),
        ncols=5,
        frameon=False,
        labelcolor=grey,
        handlelength=1.4,
        columnspacing=2.2,
    )
    legend.get_title().set_color(grey)
    figure.suptitle(
        "A second model helps as far as it errs differently", fontsize=14, weight="bold", y=0.985
    )
    figure.tight_layout(rect=(0, 0, 1, 0.905), h_pad=2.0, w_pad=1.6)
    figure.savefig(file, transparent=True, metadata={"Date": None})


COLOURS = {0.3: "#c2607c", 0.5: "#d08a26", 0.7: "#2f9e78", 0.9: "#4a86d0"}
"""Accuracies of the discriminators."""


def _panels(panels: Any) -> Iterator[tuple[Any, str, float]]:
    """Each panel with its rule and the probability that the discriminator follows."""
    for row, rule in zip(panels, RULES, strict=True):
        for panel, follow in zip(row, FOLLOWS, strict=True):
            yield panel, rule, follow


def _draw(panel: Any, cells: Sequence[Cell], grey: str) -> None:
    """One panel: expected values as lines, measured values as points."""
    panel.axhline(0, color=grey, linewidth=1)
    for at, (accuracy, colour) in enumerate(COLOURS.items()):
        own = [c for c in cells if (c.world.generator, c.world.discriminator) == (0.5, accuracy)]
        grid = [step / 20 for step in range(21)]
        world = own[0].world
        exact = [
            ToyPeers(0.5, accuracy, rho, follow=world.follow).expected(N, RULES[own[0].rule])
            for rho in grid
        ]
        lift = [100 * (one.mutual - one.majority) for one in exact]
        alone = 100 * (exact[0].alone - exact[0].majority)
        panel.plot(grid, lift, color=colour, linewidth=2, label=f"{100 * exact[0].alone:.0f} %")
        panel.plot([1.09], [alone], color=colour, marker="<", markersize=6)
        gains = [cell.gain for cell in own]
        panel.errorbar(
            [cell.world.rho + 0.012 * (at - 1.5) for cell in own],
            [mean for mean, _ in gains],
            [spread for _, spread in gains],
            fmt="o",
            markersize=4.5,
            color=colour,
            elinewidth=1.2,
            alpha=0.85,
        )
    panel.grid(color=grey, alpha=0.2, linewidth=0.8)
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_xticks(RHOS, ["0", "¼", "½", "¾", "1"])


def main() -> None:
    """Measure, print and plot the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--plot", metavar="FILE.svg", help="draw the gains (needs matplotlib)")
    args = parser.parse_args()
    started = time.monotonic()
    cells = asyncio.run(measured(args.problems))
    figures = {"problems": float(args.problems)} | table(cells)
    if args.plot:
        plot(cells, args.plot)
    figures["seconds"] = time.monotonic() - started
    if args.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
