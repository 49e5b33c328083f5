"""What a run offers to train on: its problems with their trees."""

from collections.abc import Collection, Iterator

from rstar_math.errors import InputError
from rstar_math.evolution.store import RunStore
from rstar_math.search import Tree
from rstar_math.training.curation import Searched
from rstar_math.training.texts import KINDS


class Material:
    """The searched problems of a run, read one by one; iterate as often as needed.

    Trees of rStar's actions and of sub-questions have no training text: unless `any_grammar`, they
    are left out and counted. Raises `InputError` where there is nothing to read.
    """

    def __init__(
        self,
        store: RunStore,
        strategies: Collection[str] | None = None,
        *,
        any_grammar: bool = False,
    ) -> None:
        there = store.strategies()
        if not there:
            raise InputError(
                f"{store.path} has no trees yet; search first: rstar search FILE --run {store.path}"
            )
        for name in strategies or ():
            if name not in there:
                raise InputError(
                    f"{store.path} has no results of {name!r}; it has those of {', '.join(there)}."
                )
        self.store = store
        self.any_grammar = any_grammar
        self.strategies = [name for name in there if strategies is None or name in strategies]
        done = {name: store.done(name) for name in self.strategies}
        self._places = [
            (problem, names)
            for problem in store.problems()
            if (names := [name for name in self.strategies if problem.id in done[name]])
        ]
        self.left_out = 0
        """Trees of the last iteration that were left out."""

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Searched]:
        self.left_out = 0
        for problem, names in self._places:
            trees: list[tuple[str, Tree]] = []
            for name in names:
                tree = self.store.tree(problem.id, name)
                if self.any_grammar or _has_text(tree):
                    trees.append((name, tree))
                else:
                    self.left_out += 1
            if trees:
                yield Searched(problem, tuple(trees))

    def require_verdicts(self) -> None:
        """Raise `InputError` where no path of the run can have been judged."""
        path = self.store.path
        if all(problem.reference is None for problem, _ in self._places):
            raise InputError(
                f"No problem of {path} has a reference answer, so nothing says which paths are "
                'right; search a file with "answer" in its lines.'
            )
        if not self.store.conditions().get("guided"):
            raise InputError(
                f"{path} was searched without the reference answers, so its paths have no verdicts "
                "and its values no ground; search again with --guided and a new --run."
            )


def _has_text(tree: Tree) -> bool:
    """Whether all steps of a tree are of the code grammar."""
    return all(node.step is not None and node.step.kind in KINDS for node in tree.nodes[1:])
