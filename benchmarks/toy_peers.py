"""Two solvers with known accuracies and error correlation, as generator and discriminator.

    world = ToyPeers(generator=0.5, discriminator=0.7, rho=0.2)
    problem = world.problems(1)[0]
    tree = Tree(problem.question)
    await sample_chains(
        tree, 9, parts=Parts(world.generating(), ToyExecutor()), config=SearchConfig()
    )
    await examine(
        tree, discriminator=world.discriminating(), segments=toy_units, group=group,
        config=config, seed=0
    )
    await mutual_choice(tree, group, config), world.expected(9, config).mutual

The expected results of mutual reasoning are known in closed form. A solver either knows how to
solve a problem, or has its own error about it that leads to one wrong answer. A share `steady` of
its solutions follows this belief. The others do the opposite: a solver that knows makes the error,
and one that does not know avoids it by chance. With probability `rho` the two solvers are alike on
a problem: the stronger one knows what the weaker one knows, and they have the same error. Otherwise
they know and err independently and never reach the same wrong answer. With equal accuracies, `rho`
is the correlation of their not knowing.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import comb

from rstar_math.config.sections import MutualConfig
from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, InputError
from rstar_math.protocols import Discriminator, Policy
from rstar_math.search.mutual import is_kept
from rstar_math.seeding import derive
from rstar_math.types import Cost, Problem, Question, Step

LINES = 10
"""Lines per solution."""
_AIM = re.compile(r"which leads to (-?\d+)\.")


@dataclass(frozen=True, slots=True)
class ToyPeers:
    """Problems, a generating policy and a discriminating peer.

    Immutable; equal worlds behave equally. Worlds of one seed share their random numbers.
    """

    generator: float = 0.5
    """Share of problems that the generator can solve."""
    discriminator: float = 0.5
    """Share of problems that the discriminator can solve."""
    rho: float = 0.0
    """Share of problems on which the two solvers are alike, in [0, 1]."""
    steady: float = 0.7
    """Share of a solver's solutions that follow its belief."""
    follow: float = 0.25
    """Probability that the discriminator completes a solution as it began, whatever its belief."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("generator", "discriminator", "rho", "steady", "follow"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is no share; give 0 to 1.")

    def problems(self, n: int) -> list[Problem]:
        """The first n problems, with references."""
        return [self._problem(index) for index in range(n)]

    def generating(self) -> Policy:
        """A policy that samples whole solutions."""
        return _Generator(self)

    def discriminating(self) -> Discriminator:
        """A peer that completes solutions or writes its own.

        One request costs one call. A completion costs one sampled token per added line.
        """
        return _Discriminator(self)

    def expected(self, n: int, config: MutualConfig) -> "Expected":
        """The exact accuracies over all problems, with n chains per problem.

        Only `splits`, `keep` and `score` of `config` matter. The splits must be so few that
        all prefixes of a solution differ. Answers have no values or votes of their own. With
        "paper" the reward is therefore 1, and the confidence is the share of the candidates.
        """
        mutual = 0.0
        for chance, knows, agrees in self._states():
            right = self.steady if knows else 1 - self.steady
            stands = [_stands(p, config) for p in agrees]
            mutual += chance * _mutual_chance(n, right, stands, config.score)
        return Expected(
            majority=self._by_vote(self.generator, n),
            mutual=mutual,
            alone=self._by_vote(self.discriminator, n),
        )

    def _by_vote(self, knows: float, n: int) -> float:
        """The accuracy of the majority of a solver's own n solutions."""
        return knows * _vote(n, self.steady) + (1 - knows) * _vote(n, 1 - self.steady)

    def _states(self) -> Iterator[tuple[float, bool, tuple[float, float]]]:
        """The possible states of a problem.

        Each has a probability, states whether the generator knows the problem, and holds the
        probabilities that a completion agrees with a right and with a wrong candidate.
        """
        g, d = self.generator, self.discriminator
        both = {True: min(g, d), False: g * d}
        for alike, weight in ((True, self.rho), (False, 1 - self.rho)):
            joint = {
                (True, True): both[alike],
                (True, False): g - both[alike],
                (False, True): d - both[alike],
                (False, False): 1 - g - d + both[alike],
            }
            for (knows, peer_knows), chance in joint.items():
                own = self.steady if peer_knows else 1 - self.steady
                with_wrong = 1 - own if alike else 0.0
                agrees = (self._pulled(own), self._pulled(with_wrong))
                yield weight * chance, knows, agrees

    def _pulled(self, own: float) -> float:
        """The probability that a completion reaches an answer.

        A share `own` of the peer's own solutions has this answer.
        """
        return self.follow + (1 - self.follow) * own

    def _problem(self, index: int) -> Problem:
        drawn = _Drawn.of(self.seed, index)
        question = Question(
            f"toy-peers-{self.seed}-{index}", f"Which number is hidden under cup {index}?"
        )
        return Problem(question, str(drawn.reference), source="toy")

    def solution(self, question: Question, rng: random.Random, *, generator: bool) -> str:
        """The answer of one solution of a solver."""
        match = re.fullmatch(r"toy-peers-(\d+)-(\d+)", question.id)
        if match is None or int(match[1]) != self.seed:
            raise InputError(
                f"Question {question.id} is not of this toy world; take questions from its "
                "problems()."
            )
        drawn = _Drawn.of(self.seed, int(match[2]))
        alike = drawn.alike < self.rho
        if generator:
            knows, error = drawn.generator < self.generator, drawn.errors[0]
        elif alike:
            knows, error = drawn.generator < self.discriminator, drawn.errors[0]
        else:
            knows, error = drawn.discriminator < self.discriminator, drawn.errors[1]
        right = knows == (rng.random() < self.steady)
        return str(drawn.reference if right else error)


@dataclass(frozen=True, slots=True)
class Expected:
    """Shares of problems solved, each in [0, 1]."""

    majority: float
    """Majority of the generator's solutions."""
    mutual: float
    """Mutual reasoning."""
    alone: float
    """Majority of the same number of the discriminator's own solutions."""


def toy_units(question: Question, steps: Sequence[Step]) -> list[str]:
    """The lines of a toy solution, for `search.mutual.check_solutions`."""
    return [line for step in steps for line in step.text.splitlines(keepends=True)]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The random numbers of one problem.

    The accuracies turn them into knowledge, so worlds of one seed share them.
    """

    reference: int
    errors: tuple[int, int]
    """The wrong answers of the generator, and of a discriminator that is not alike."""
    alike: float
    generator: float
    discriminator: float

    @classmethod
    def of(cls, seed: int, index: int) -> "_Drawn":
        """The state of problem `index`."""
        rng = random.Random(derive(seed, "peers", index))
        reference, *errors = rng.sample(range(10, 100), 3)
        return cls(reference, (errors[0], errors[1]), rng.random(), rng.random(), rng.random())


@dataclass(frozen=True, slots=True)
class _Generator:
    """See `ToyPeers.generating`."""

    world: ToyPeers

    async def propose(
        self, question: Question, prefix: Sequence[Step], k: int, *, seed: int
    ) -> list[Step]:
        """See `protocols.Policy`."""
        rng = random.Random(derive(seed, question.id, *(step.text for step in prefix)))
        add_cost(Cost(calls=1, samples=k, sampled_tokens=k * LINES))
        return [self._step(question, rng) for _ in range(k)]

    def _step(self, question: Question, rng: random.Random) -> Step:
        answer = self.world.solution(question, rng, generator=True)
        lines = [f"I follow idea {rng.getrandbits(48)}, which leads to {answer}."]
        lines += [f"Line {at} follows from line {at - 1}." for at in range(2, LINES)]
        lines.append(f"So it is {answer}.")
        return Step(prose="\n".join(lines), kind="answer", answer=answer)


@dataclass(frozen=True, slots=True)
class _Discriminator:
    """See `ToyPeers.discriminating`."""

    world: ToyPeers

    async def complete_answers(
        self, question: Question, partial: str, n: int, *, seed: int
    ) -> list[str | None]:
        """See `protocols.Discriminator`."""
        rng = random.Random(derive(seed, question.id, partial))
        added = LINES - len(partial.splitlines())
        add_cost(Cost(calls=1, samples=n, sampled_tokens=n * added))
        return [self._answer(question, partial, rng) for _ in range(n)]

    def _answer(self, question: Question, partial: str, rng: random.Random) -> str:
        aim = _AIM.search(partial)
        if aim is not None and rng.random() < self.world.follow:
            return aim[1]
        return self.world.solution(question, rng, generator=False)


def _binomial(n: int, p: float) -> list[float]:
    """The probabilities of 0 to n successes."""
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def _vote(n: int, p: float) -> float:
    """The probability that a majority of n independent votes is right; a tie counts half.

    Each vote is right with probability p.
    """
    return sum(c * ((2 * k > n) + 0.5 * (2 * k == n)) for k, c in enumerate(_binomial(n, p)))


def _stands(p: float, config: MutualConfig) -> float:
    """The probability that a candidate is kept, if each completion agrees with probability p."""
    chances = enumerate(_binomial(config.splits, p))
    return sum(c for k, c in chances if is_kept((k, config.splits), config.min_agreement))


def _mutual_chance(n: int, right: float, stands: Sequence[float], score: str) -> float:
    """The probability that the mutual choice is right.

    A candidate is right with probability `right`. `stands` holds the probabilities that a right
    and a wrong candidate are kept.
    """
    total = 0.0
    for k, chance in enumerate(_binomial(n, right)):
        for a, kept_right in enumerate(_binomial(k, stands[0])):
            for b, kept_wrong in enumerate(_binomial(n - k, stands[1])):
                total += chance * kept_right * kept_wrong * _wins((k, a), (n - k, b), score)
    return total


def _wins(right: tuple[int, int], wrong: tuple[int, int], score: str) -> float:
    """1 if the right answer is chosen, 0 if the wrong one, 1/2 on a tie.

    Each answer is given by the numbers of its candidates and of its kept candidates.
    """
    kept = right[1] + wrong[1]

    def rank(count: int, left: int) -> tuple[float, ...]:
        if not kept:
            return (count,)
        if not left:
            return (-1.0, 0)
        value = count if score == "paper" else round(left / kept + left / count, 12)
        return (value, left)

    ours, theirs = rank(*right), rank(*wrong)
    return 0.5 if ours == theirs else float(ours > theirs)
