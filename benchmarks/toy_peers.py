"""Two solvers whose accuracies, and whose agreement in what they get wrong, are set: a generator
and a discriminator for mutual reasoning, with what is to be expected of them in closed form.

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

A solver either knows how to solve a problem or has an error of its own about it, which leads to one
wrong answer. Of its solutions most, `steady`, come out as it believes; the others the other
way: a solver that knows makes the error, one that does not avoids it by chance. With probability
`rho` a problem is one on which the two are alike: what the weaker knows the stronger knows too, and
they have the same error. Else they know and err independently, and never come to the same wrong
answer. With equal accuracies rho is the correlation of their not knowing.
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
"""Lines of every solution."""
_AIM = re.compile(r"which leads to (-?\d+)\.")


@dataclass(frozen=True, slots=True)
class ToyPeers:
    """Problems, a policy that generates and a peer that discriminates. Immutable; equal worlds
    behave equally, and worlds of one seed differ only in what their numbers make them differ."""

    generator: float = 0.5
    """Share of the problems that the generator knows how to solve."""
    discriminator: float = 0.5
    """The same for the discriminator."""
    rho: float = 0.0
    """Share of the problems on which the two are alike, in [0, 1]."""
    steady: float = 0.7
    """Share of a solver's solutions that come out as it believes."""
    follow: float = 0.25
    """Chance that the discriminator ends a solution as it was partial, whatever it believes."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("generator", "discriminator", "rho", "steady", "follow"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)} is no share; give 0 to 1.")

    def problems(self, n: int) -> list[Problem]:
        """The first n problems, with their references."""
        return [self._problem(index) for index in range(n)]

    def generating(self) -> Policy:
        """A policy whose samples are whole solutions."""
        return _Generator(self)

    def discriminating(self) -> Discriminator:
        """A peer that completes them, or writes its own. One request costs one call, a completion
        one sampled token a line that it adds."""
        return _Discriminator(self)

    def expected(self, n: int, config: MutualConfig) -> "Expected":
        """The exact accuracies over all problems, with n chains a problem.

        Of `config` it goes by `splits`, `keep` and `score`; the splits must be few enough for all
        beginnings of a solution to differ. Neither answer has values or votes of its own, so by
        "paper" the reward is 1 and the confidence an answer's share of the candidates.
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
        """How often the majority of a solver's own n solutions is right."""
        return knows * _vote(n, self.steady) + (1 - knows) * _vote(n, 1 - self.steady)

    def _states(self) -> Iterator[tuple[float, bool, tuple[float, float]]]:
        """What a problem can be: its chance, whether the generator knows it, and how likely a
        completion agrees with a right candidate and with a wrong one."""
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
        """How likely a completion comes to an answer that `own` of the peer's own solutions do."""
        return self.follow + (1 - self.follow) * own

    def _problem(self, index: int) -> Problem:
        drawn = _Drawn.of(self.seed, index)
        question = Question(
            f"toy-peers-{self.seed}-{index}", f"Which number is hidden under cup {index}?"
        )
        return Problem(question, str(drawn.reference), source="toy")

    def solution(self, question: Question, rng: random.Random, *, generator: bool) -> str:
        """The answer of one solution of a solver's own."""
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
    """Shares of problems answered right, each in [0, 1]."""

    majority: float
    """By most of the generator's solutions."""
    mutual: float
    """By mutual reasoning."""
    alone: float
    """By most of as many solutions of the discriminator's own."""


def toy_units(question: Question, steps: Sequence[Step]) -> list[str]:
    """The lines of a toy solution, for `search.mutual.check_candidates`."""
    return [line for step in steps for line in step.text.splitlines(keepends=True)]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What chance made of a problem; the uniform numbers become knowledge by comparison with the
    accuracies, so that worlds of one seed share them."""

    reference: int
    errors: tuple[int, int]
    """The wrong answers of the generator, and of a discriminator that is not alike."""
    alike: float
    generator: float
    discriminator: float

    @classmethod
    def of(cls, seed: int, index: int) -> "_Drawn":
        """What it made of problem `index`."""
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
    """The chances of 0 to n successes."""
    return [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]


def _vote(n: int, p: float) -> float:
    """How likely a majority of n independent votes, each right with chance p, is right; of a tie
    half."""
    return sum(c * ((2 * k > n) + 0.5 * (2 * k == n)) for k, c in enumerate(_binomial(n, p)))


def _stands(p: float, config: MutualConfig) -> float:
    """How likely a candidate is kept with whose answer each completion agrees with chance p."""
    chances = enumerate(_binomial(config.splits, p))
    return sum(c for k, c in chances if is_kept((k, config.splits), config.min_agreement))


def _mutual_chance(n: int, right: float, stands: Sequence[float], score: str) -> float:
    """How likely the mutual choice is right where a candidate is right with chance `right`, and a
    right and a wrong one are kept with the chances of `stands`."""
    total = 0.0
    for k, chance in enumerate(_binomial(n, right)):
        for a, kept_right in enumerate(_binomial(k, stands[0])):
            for b, kept_wrong in enumerate(_binomial(n - k, stands[1])):
                total += chance * kept_right * kept_wrong * _wins((k, a), (n - k, b), score)
    return total


def _wins(right: tuple[int, int], wrong: tuple[int, int], score: str) -> float:
    """1 where the right answer is chosen, 0 where the wrong one, 1/2 where the first found of two
    equals is; each answer with the numbers of its candidates and of those kept."""
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
