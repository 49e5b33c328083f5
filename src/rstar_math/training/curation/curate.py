"""Selects training data from the trees of searched problems (rStar-Math, arXiv:2501.04519, sections
3.2 and 3.3)."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from rstar_math.protocols import AnswerGrouper, QuestionGrouper
from rstar_math.runs.results import SearchedProblem
from rstar_math.search.equivalence import normalized_program
from rstar_math.search.tree import ROOT
from rstar_math.search.voting import path_probabilities
from rstar_math.seeding import derive
from rstar_math.training.curation.arithmetic import false_statements
from rstar_math.training.curation.pairs import (
    JudgedPath,
    TreeValues,
    final_pairs,
    highest_q_first,
    step_pairs,
)
from rstar_math.training.curation.records import (
    Curated,
    CurationConfig,
    Data,
    Outcome,
    PrefixValue,
    Report,
    SelectedSolution,
    SuspectLabel,
    TreeNodeRef,
    UnreliableProblem,
    add_count,
)
from rstar_math.types import SYNTHETIC, Problem

MIN_RELIABLE_SHARE = 0.5
"""Minimum share of a synthetic problem's judged paths that reach its reference (paper: 50 %)."""


def find_unreliable(problem: Problem, trees: Sequence[TreeValues]) -> UnreliableProblem | None:
    """The problem, if it is synthetic and its solutions mostly contradict its reference; else None.

    None also if no path has a verdict. A path counts with the probability that the policy writes it
    (`search.voting.path_probabilities`). Plain counts would be biased: a search guided by the
    reference visits right paths more often.
    """
    if problem.source != SYNTHETIC:
        return None
    right = judged = 0.0
    for values in trees:
        probabilities = path_probabilities(values.tree)
        right_mass = sum(probabilities[path.node] for path in values.right_paths)
        right += right_mass
        judged += right_mass + sum(probabilities[path.node] for path in values.wrong_paths)
    if not judged or right / judged >= MIN_RELIABLE_SHARE:
        return None
    paths = sum(len(values.right_paths) + len(values.wrong_paths) for values in trees)
    return UnreliableProblem(problem.id, right / judged, paths)


async def find_label_noise(
    problem: Problem, trees: Sequence[TreeValues], config: CurationConfig, group: AnswerGrouper
) -> SuspectLabel | None:
    """The problem, if its reference answer is probably wrong; else None.

    Solutions that run the same program count once: a repeated or reworded program is no independent
    evidence.
    """
    if any(values.right_paths for values in trees):
        return None
    answer_of_program: dict[str, str] = {}
    for values in trees:
        for path in values.wrong_paths:
            steps = path.steps
            answer_of_program.setdefault(normalized_program(steps), steps[-1].answer or "")
    if len(answer_of_program) < config.noise_min_programs:
        return None
    answers = list(answer_of_program.values())
    classes = await group(answers)
    largest, votes = Counter(classes).most_common(1)[0]
    share = votes / len(answers)
    if share < config.noise_min_share:
        return None
    answer = answers[classes.index(largest)]
    return SuspectLabel(problem.id, problem.reference_text, answer, share, len(answers))


def select_solutions(
    trees: Sequence[TreeValues], config: CurationConfig, report: Report
) -> list[SelectedSolution]:
    """The best right solutions of one problem over all its trees, best first.

    Paths with failed code, and with `drop_false_arithmetic` those with a false calculation in their
    words, are dropped before ranking. A path that runs the same program as a better
    one is a duplicate; paths after the last kept one are not checked for that. Every finished path
    is added to `report.solutions`, as kept or by the reason why not.
    """
    counts = report.solutions
    clean = [path for values in trees for path in values.right_paths if not path.failed]
    add_count(counts, "no answer", sum(values.unanswered for values in trees))
    add_count(counts, "not judged", sum(values.unjudged for values in trees))
    add_count(counts, "wrong", sum(len(values.wrong_paths) for values in trees))
    right = sum(len(values.right_paths) for values in trees)
    add_count(counts, "failed code", right - len(clean))
    if config.drop_false_arithmetic:
        sound = [path for path in clean if not false_statements(path.steps)]
        add_count(counts, "false arithmetic in words", len(clean) - len(sound))
        clean = sound
    kept: list[SelectedSolution] = []
    programs: set[str] = set()
    checked = 0
    for path in highest_q_first(clean):
        if len(kept) == config.solutions:
            break
        checked += 1
        program = normalized_program(path.steps)
        if program in programs:
            add_count(counts, "same program as a better one")
            continue
        programs.add(program)
        trajectory = path.tree_values.tree.trajectory(path.node)
        kept.append(SelectedSolution(trajectory, path.last_node, path.mean_q, path.min_q))
        add_count(report.flags, "false arithmetic in words", bool(false_statements(path.steps)))
    add_count(counts, "kept", len(kept))
    add_count(counts, f"not among the best {config.solutions}", len(clean) - checked)
    return kept


def cap_per_source(
    solutions: Sequence[SelectedSolution],
    sources: dict[str, str | None],
    config: CurationConfig,
    counts: dict[str, int],
) -> list[SelectedSolution]:
    """The solutions that fit under `config.per_source`, in the given order.

    The best solution of every problem is taken before the second best of any. A hash of the problem
    id breaks ties, so the cap does not favour problems at the start of a file.
    """
    if config.per_source is None:
        return list(solutions)
    next_rank: Counter[str] = Counter()
    order: list[tuple[int, int, str, int]] = []
    for index, solution in enumerate(solutions):
        problem = solution.trajectory.question.id
        # "cap" is part of the seed, not a label: renaming it changes which solutions are kept.
        order.append((next_rank[problem], derive(0, "cap", problem), problem, index))
        next_rank[problem] += 1
    taken: Counter[str | None] = Counter()
    kept: set[int] = set()
    for _, _, problem, index in sorted(order):
        source = sources.get(problem)
        taken[source] += 1
        if taken[source] <= config.per_source:
            kept.add(index)
    add_count(counts, "kept", len(kept) - len(solutions))
    add_count(counts, "over the cap of its source", len(solutions) - len(kept))
    return [solution for index, solution in enumerate(solutions) if index in kept]


def collect_outcomes(trees: Sequence[TreeValues]) -> list[Outcome]:
    """All judged solutions of a problem and whether they are right. Equal texts count once (ORM:
    Cobbe et al., arXiv:2110.14168)."""
    return [
        Outcome(path.tree_values.tree.trajectory(path.node), path.last_node, right)
        for path, right in _judged_paths(trees)
    ]


def collect_values(trees: Sequence[TreeValues]) -> list[PrefixValue]:
    """The prefix and Q of every node that leads to a judged answer (PQM in rStar-Math's ablation,
    arXiv:2501.04519, table 8)."""
    prefixes: list[PrefixValue] = []
    for values in trees:
        tree = values.tree
        for node, q in enumerate(values.q):
            judged = values.right_counts[node] + values.wrong_counts[node]
            if node != ROOT and judged and q is not None:
                last_node = TreeNodeRef(values.strategy, node)
                prefixes.append(PrefixValue(tree.question, tree.prefix(node), last_node, q))
    return prefixes


def _judged_paths(trees: Sequence[TreeValues]) -> Iterator[tuple[JudgedPath, bool]]:
    """Judged paths of distinct text in order of creation, and whether they are right."""
    seen: set[str] = set()
    for values in trees:
        paths = [(path, True) for path in values.right_paths]
        paths += [(path, False) for path in values.wrong_paths]
        for path, right in sorted(paths, key=lambda pair: pair[0].node):
            if path.text not in seen:
                seen.add(path.text)
                yield path, right


async def curate(
    searched: Iterable[SearchedProblem],
    grouper: QuestionGrouper,
    config: CurationConfig | None = None,
    data: Collection[Data] = ("sft", "preference"),
) -> Curated:
    """Select training data from searched problems, in order, and count what is dropped.

    The grouper sorts the answers of problems that have no right path. Problems are read one by one,
    so a run need not fit into memory. Raises what the grouper raises.
    """
    config = config or CurationConfig()
    curated = Curated()
    report = curated.report
    for entry in searched:
        problem = entry.problem
        trees = [TreeValues(strategy, tree) for strategy, tree in entry.trees]
        unreliable = find_unreliable(problem, trees)
        if unreliable is not None:
            curated.unreliable.append(unreliable)
            add_count(report.problems, "synthetic, mostly contradicted")
            continue
        suspect = await find_label_noise(problem, trees, config, grouper(problem.question))
        if suspect is not None:
            curated.suspects.append(suspect)
            add_count(report.problems, "probably mislabelled")
            continue
        add_count(report.problems, _verdict_mix(trees))
        curated.sources[problem.id] = problem.source
        _add_problem(curated, trees, config, data)
    curated.solutions = cap_per_source(curated.solutions, curated.sources, config, report.solutions)
    return curated


def _add_problem(
    curated: Curated, trees: list[TreeValues], config: CurationConfig, data: Collection[Data]
) -> None:
    """Add the requested data of one problem."""
    report = curated.report
    if "sft" in data:
        curated.solutions.extend(select_solutions(trees, config, report))
    if "preference" in data:
        for values in trees:
            pairs = step_pairs(values, config, report.step_pairs)
            for pair in pairs:
                report.by_depth[pair.depth] = report.by_depth.get(pair.depth, 0) + 1
            curated.pairs.extend(pairs)
        curated.pairs.extend(final_pairs(trees, config, report.final_pairs))
    if "outcome" in data:
        curated.outcomes.extend(collect_outcomes(trees))
    if "value" in data:
        curated.values.extend(collect_values(trees))


def _verdict_mix(trees: list[TreeValues]) -> str:
    """Which verdicts a problem's paths have. Only problems with both kinds can give pairs."""
    right = any(values.right_paths for values in trees)
    wrong = any(values.wrong_paths for values in trees)
    if right and wrong:
        return "right and wrong ends"
    if right or wrong:
        return "all ends right" if right else "all ends wrong"
    return "no judged end"
