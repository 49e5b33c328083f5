"""A toy world with known true values: adding numbers, one per step, with a model that makes errors.

    world = ToyWorld(steps=4)
    problem = world.problems(1)[0]
    tree = Tree(problem.question)
    await grow(
        tree, policy=world.policy, executor=world.executor, verifier=world.verifier(problem),
        config=SearchConfig(rollouts=64),
    )
    tree.nodes[ROOT].q, world.value(k=8)

It serves to test and compare searches: it needs no process and no model, and searches a tree in
milliseconds. Unlike those of a language model, its errors are independent of each other and of the
problem.
"""

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from rstar_math.costs import add_cost
from rstar_math.errors import ConfigError, InputError
from rstar_math.protocols import Executor, Policy, Scorer, Verifier
from rstar_math.seeding import derive
from rstar_math.testing.scripted import ScriptedPolicy
from rstar_math.types import Cost, Execution, ExecutionStatus, Problem, Question, Step, Verdict


class Effect(StrEnum):
    """The effect of a step of the toy world on the solution."""

    RIGHT = "right"
    SLIP = "slip"
    TRAP = "trap"
    FAILS = "fails"
    DEAD = "dead"
    ANSWER = "answer"


_TERMINAL = (Effect.FAILS, Effect.DEAD)
"""Effects after which there is no further step."""
_WRONG = (Effect.SLIP, Effect.TRAP)
"""Effects after which every answer is wrong."""
WORDINGS = 3
"""Number of texts with the same meaning."""


@dataclass(frozen=True, slots=True)
class ToyWorld:
    """Problems with a matching policy, executor, scorer and verifiers.

    Every sampled step that adds a number has one of five effects, independently of all else. Their
    probabilities are the fields below. The rest to 1 is the probability of a sample without a step,
    which the policy counts as malformed and drops. After the last number, a step states the
    printed sum as the answer. Immutable; equal worlds behave equally.
    """

    steps: int = 4
    """Number of numbers to add. A solution has one step per number and one for the answer."""
    right: float = 0.55
    """Probability of a step that adds the right number."""
    slip: float = 0.2
    """Probability of a step that adds a slightly wrong number: it runs and looks right, but the
    answer becomes wrong."""
    trap: float = 0.1
    """Probability of a step that adds the number twice, with a reason: the answer becomes wrong,
    but the scorer gives a high value."""
    fails: float = 0.1
    """Probability of code that raises an error. The policy has no step after it."""
    dead: float = 0.05
    """Probability of a dead end: code that runs, but the policy has no step after it."""
    wordings: int = WORDINGS
    """Number of different texts with the same effect, 1 to 3."""
    seed: int = 0
    """Random seed of the problems. The policy does not depend on it."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"Invalid steps = {self.steps}; it must be at least 1.")
        if not 1 <= self.wordings <= WORDINGS:
            raise ConfigError(f"Invalid wordings = {self.wordings}; it must be 1 to {WORDINGS}.")
        probabilities = self._probabilities()
        for effect, probability in probabilities.items():
            if not 0 <= probability <= 1:
                raise ConfigError(f"Invalid probability {effect} = {probability}; use 0 to 1.")
        if sum(probabilities.values()) > 1 + 1e-9:
            raise ConfigError(
                f"The probabilities {', '.join(probabilities)} add up to "
                f"{sum(probabilities.values()):.3g}; lower them to a sum of at most 1."
            )

    def problems(self, n: int) -> list[Problem]:
        """The first `n` problems of the world. A problem does not depend on `n`."""
        return [self._problem(index) for index in range(n)]

    @property
    def policy(self) -> Policy:
        """A policy that draws K independent samples, determined by seed, question and prefix.

        `propose` charges one call and one token per word.
        """
        return ScriptedPolicy(self._sample)

    @property
    def exhaustive_policy(self) -> Policy:
        """A policy that proposes every step with a probability above 0, in random order.

        A search needs `candidates` of at least `max_children`. The tree is finite. Once it is fully
        searched, every Q equals `value(prefix, k=None)`.
        """
        return ScriptedPolicy(self._enumerate)

    @property
    def max_children(self) -> int:
        """The maximum number of different steps after a prefix."""
        counts = [self._variants(effect) for effect, p in self._probabilities().items() if p]
        return max(sum(counts), self.wordings)

    @property
    def executor(self) -> Executor:
        """An executor that interprets the steps; it starts no process and executes no code."""
        return ToyExecutor()

    def scorer(self, noise: float = 0.2, seed: int = 0, *, blind_steps: int = 2) -> Scorer:
        """An imperfect PPM: the true value of a prefix plus normal noise, clipped to [-1, 1].

        The value is -1 after failing code and in a dead end. `noise` is the standard deviation;
        equal prefixes get equal noise. A trap has the value 0.9 until `blind_steps` steps later or
        until the answer. The scorer charges one token per word of question and prefix.
        """
        return ToyScorer(self.value, noise, seed, blind_steps)

    def verifier(self, problem: Problem) -> Verifier:
        """A verifier that compares with the reference as text. Raises `InputError` without one."""
        if not isinstance(problem.reference, str):
            raise InputError(f"Problem {problem.id} has no reference; use one of problems().")
        return ToyVerifier(problem.reference)

    def value(self, prefix: Sequence[Step] = (), *, k: int | None = 1) -> float | None:
        """The true value of a prefix in [-1, 1], which Q estimates: the mean value of its answers.

        A right answer has the value +1 and a wrong one -1. Paths that fail or end in a dead end
        have no answer and do not count, as in Q. The value is None if the prefix itself fails or is
        a dead end.

        - `k = 1`: the mean over random chains that end with an answer. Exact.
        - `k` samples at each node, with equal samples merged into one child: the expected sum of
          values divided by the expected number of answers, over all fully searched trees. It
          differs from the value for k = 1, because merging reduces the weight of frequent steps.
        - `k = None`: every node has all possible children (`exhaustive_policy`). Exact for every
          tree.

        The value holds for a search with a verifier and without a scorer. A scorer adds its initial
        values to Q.
        """
        effects = self._effects(prefix)
        if any(effect in _TERMINAL for effect in effects):
            return None
        # With m equally likely texts, an effect of probability p has D = m (1 - (1 - p/m)^k)
        # children on average among k samples. Nodes are sampled independently. The expected number
        # of answers below a node with t numbers left is therefore (D_right + D_slip + D_trap)^t
        # times the answer's wordings. That of right answers is D_right^t times the wordings.
        right = self._children(Effect.RIGHT, k)
        total = right + sum(self._children(effect, k) for effect in _WRONG)
        left = max(self.steps - len(effects), 0)
        if total**left == 0:
            return None
        if any(effect in _WRONG for effect in effects):
            return -1.0
        return (2 * right**left - total**left) / total**left

    def best_value(self, prefix: Sequence[Step] = ()) -> float:
        """The value of the best continuation: +1 if a right answer is reachable, else -1."""
        return 1.0 if self.pass_rate(prefix) > 0 else -1.0

    def pass_rate(self, prefix: Sequence[Step] = ()) -> float:
        """The probability, in [0, 1], that a random chain from a prefix ends with a right answer.

        Failures, dead ends and samples without a step count as wrong.
        """
        effects = self._effects(prefix)
        if any(effect in (*_TERMINAL, *_WRONG) for effect in effects):
            return 0.0
        return float(self.right ** max(self.steps - len(effects), 0))

    def _probabilities(self) -> dict[Effect, float]:
        """The probability of each effect of a step before the answer."""
        return {
            Effect.RIGHT: self.right,
            Effect.SLIP: self.slip,
            Effect.TRAP: self.trap,
            Effect.FAILS: self.fails,
            Effect.DEAD: self.dead,
        }

    def _variants(self, effect: Effect) -> int:
        """The number of texts with an effect; all are equally likely."""
        return self.wordings * (len(SLIPS) if effect is Effect.SLIP else 1)

    def _children(self, effect: Effect, k: int | None) -> float:
        """The expected number of different steps with an effect among k samples (None: all)."""
        probability, texts = self._probabilities()[effect], self._variants(effect)
        if k is None:
            return texts if probability else 0
        return probability if k == 1 else texts * (1 - (1 - probability / texts) ** k)

    def _effects(self, prefix: Sequence[Step]) -> list[Effect]:
        """The effects of the steps of a prefix."""
        effects = [effect for effect in map(effect_of, prefix) if effect is not None]
        if len(effects) < len(prefix):
            raise InputError("The prefix has a step of another policy; use steps of a toy world.")
        return effects

    def _problem(self, index: int) -> Problem:
        rng = random.Random(derive(self.seed, "problem", index))
        numbers = [rng.randint(3, 60) for _ in range(self.steps)]
        question = Question(
            f"toy-{self.steps}-{self.seed}-{index}",
            f"Add up these numbers, one after the other: {', '.join(map(str, numbers))}.",
        )
        return Problem(question, str(sum(numbers)), source="toy")

    def _sample(self, question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        """K sampled texts."""
        if any(effect in _TERMINAL for effect in self._effects(prefix)):
            return []
        rng = _rng(question, prefix, seed)
        if prefix and prefix[-1].kind == "code":
            output = _output(prefix[-1])
            return [answer_text(rng.randrange(self.wordings), output) for _ in range(k)]
        numbers, at = self._numbers(question), len(prefix)
        probabilities = self._probabilities()
        none = max(0.0, 1 - sum(probabilities.values()))
        texts: list[str] = []
        for effect in rng.choices([*probabilities, None], [*probabilities.values(), none], k=k):
            if effect is None:
                texts.append(malformed_text(numbers, at))
            else:
                variant = self._variant(rng.randrange(self._variants(effect)))
                texts.append(step_text(effect, variant, numbers, at))
        return texts

    def _enumerate(
        self, question: Question, prefix: Sequence[Step], k: int, seed: int
    ) -> list[str]:
        """All texts with a probability above 0, in random order."""
        if k < self.max_children:
            raise ConfigError(
                f"candidates = {k} is too few for the exhaustive policy of this toy world; set it "
                f"to at least {self.max_children}."
            )
        if any(effect in _TERMINAL for effect in self._effects(prefix)):
            return []
        if prefix and prefix[-1].kind == "code":
            return [answer_text(wording, _output(prefix[-1])) for wording in range(self.wordings)]
        numbers, at = self._numbers(question), len(prefix)
        texts = [
            step_text(effect, self._variant(number), numbers, at)
            for effect, probability in self._probabilities().items()
            if probability
            for number in range(self._variants(effect))
        ]
        _rng(question, prefix, seed).shuffle(texts)
        return texts

    def _variant(self, number: int) -> int:
        """The variant of `step_text` for text `number` of this world.

        They differ if the world has fewer wordings than `WORDINGS`.
        """
        return number // self.wordings * WORDINGS + number % self.wordings

    def _numbers(self, question: Question) -> list[int]:
        """The numbers that a question asks to add."""
        numbers = [int(number) for number in re.findall(r"\d+", question.text)]
        if len(numbers) != self.steps:
            raise InputError(
                f"Question {question.id} has {len(numbers)} numbers, but this toy world adds "
                f"{self.steps}; use questions of its problems()."
            )
        return numbers


def _rng(question: Question, prefix: Sequence[Step], seed: int) -> random.Random:
    """A random generator that depends only on seed, question and prefix."""
    return random.Random(derive(seed, question.id, question.text, *(step.text for step in prefix)))


def _output(step: Step) -> str:
    """The output of a code step."""
    return step.execution.stdout.strip() if step.execution else ""


SLIPS = (1, 2, 10)
"""The possible errors of a slip. All errors of the toy world are positive, so errors never cancel:
a wrong sum stays wrong."""
_ADD_TEXTS = (
    "# The next number of the list is {n}, so the running total s has to grow by just that much.",
    "# Now it is the turn of {n}: put it on top of all that we have added up so far.",
    "# Take {n} from the list, add it to the sum s, and then go on with what is left.",
)
_TRAP_TEXTS = (
    "# The number {n} stands out, because the list names it for two people: add it twice.",
    "# Note that {n} counts double, a point that is easy to miss here, so add it two times.",
    "# We have to be careful with {n}: it is needed both before and after, so it goes in twice.",
)
_DEAD_END_TEXTS = (
    "# After {n} we would have to know how the list goes on, and the problem does not say.",
    "# Whether {n} is part of the list depends on something that we are not told, so wait.",
    "# Before {n} can be added, the rest of the list must be known, and it is nowhere given.",
)
_ANSWER_TEXTS = (
    "All the numbers of the list are added now, so their sum is \\boxed{{{said}}}.",
    "The program has printed the sum of the whole list, which is \\boxed{{{said}}}.",
    "So the total that the problem asks for comes to \\boxed{{{said}}} in the end.",
)


def step_text(effect: Effect, variant: int, numbers: Sequence[int], at: int) -> str:
    """The text of a step with an effect on number `at`, with its end mark.

    `variant` is in 0 to `WORDINGS * len(SLIPS) - 1`.
    """
    wording, extra = variant % WORDINGS, SLIPS[variant // WORDINGS]
    n = numbers[at]
    code = {
        Effect.RIGHT: f"s += {n}",
        Effect.SLIP: f"s += {n + extra}",
        Effect.TRAP: f"s += 2 * {n}",
        Effect.FAILS: (f"s += {n} / 0", f"s += total + {n}", f"s += str({n})")[wording],
        Effect.DEAD: "rest = None",
    }[effect]
    texts = {Effect.TRAP: _TRAP_TEXTS, Effect.DEAD: _DEAD_END_TEXTS}.get(effect, _ADD_TEXTS)
    start = "" if at else "s = 0\n"
    end = "print(s)\n<code/>" if at == len(numbers) - 1 else "<step/>"
    return f"{texts[wording].format(n=n)}\n{start}{code}\n{end}"


def answer_text(wording: int, output: str) -> str:
    """The text of the answer step, with the output of the program."""
    return _ANSWER_TEXTS[wording].format(said=output) + "\n<answer/>"


def malformed_text(numbers: Sequence[int], at: int) -> str:
    """A sample without a valid step: an answer in the middle of the code."""
    return f"I think that the sum must be about {sum(numbers[: at + 1])} or so.\n<answer/>"


_CHANGE = re.compile(
    r"^(?:s \+= (?:(?P<add>\d+)|2 \* (?P<twice>\d+)|(?P<fails>\d+ / 0|total \+ \d+|str\(\d+\)))"
    r"|(?P<dead>rest = None))$",
    re.MULTILINE,
)
_NUMBER = re.compile(r"\d+")
_ERRORS = {
    "/": ("ZeroDivisionError", "division by zero"),
    "+": ("NameError", "name 'total' is not defined"),
    "(": ("TypeError", "unsupported operand type(s) for +=: 'int' and 'str'"),
}


def effect_of(step: Step) -> Effect | None:
    """The effect of a step, from its text alone; None for a step of another policy.

    A slip names one number and adds another.
    """
    if step.kind == "answer":
        return Effect.ANSWER
    change, number = _CHANGE.search(step.code), _NUMBER.search(step.prose)
    if change is None or number is None:
        return None
    if change["add"] is not None:
        return Effect.RIGHT if change["add"] == number[0] else Effect.SLIP
    if change["twice"] is not None:
        return Effect.TRAP
    return Effect.FAILS if change["fails"] is not None else Effect.DEAD


class ToyExecutor:
    """An Executor that interprets the steps of the toy world instead of executing them.

    It is safe and takes microseconds. Any other code is a SyntaxError.
    """

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        total: int | None = None
        for before in prefix:
            total, _ = _run(before.code, total)
        return _run(step.code, total)[1]


def _run(code: str, total: int | None) -> tuple[int | None, Execution]:
    """The value of `s` after the code (None: not defined), and the execution."""
    printed = ""
    for line in code.splitlines():
        change = _CHANGE.fullmatch(line)
        if line == "s = 0":
            total = 0
        elif change is None and line != "print(s)":
            return total, _error("SyntaxError", "the toy world only runs its own steps", printed)
        elif change is not None and change["dead"] is not None:
            continue
        elif total is None:
            return None, _error("NameError", "name 's' is not defined", printed)
        elif change is None:
            printed += f"{total}\n"
        elif change["fails"] is not None:
            sign = next(sign for sign in _ERRORS if sign in change["fails"])
            return total, _error(*_ERRORS[sign], printed)
        else:
            total += int(change["add"] or 0) + 2 * int(change["twice"] or 0)
    return total, Execution(ExecutionStatus.OK, printed)


def _error(kind: str, message: str, printed: str) -> Execution:
    return Execution(ExecutionStatus.ERROR, printed, kind, message)


TRAP_VALUE = 0.9
"""The scorer's value of a trap that it has not detected."""


@dataclass(frozen=True, slots=True)
class ToyScorer:
    """A Scorer of true values plus noise that misses recent traps; see `ToyWorld.scorer`."""

    value: Callable[[Sequence[Step]], float | None]
    noise: float
    seed: int
    blind_steps: int

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        question_words = len(question.text.split()) * len(prefixes)
        words = sum(len(step.text.split()) for prefix in prefixes for step in prefix)
        add_cost(Cost(scorer_tokens=question_words + words))
        return [self._score(question, prefix) for prefix in prefixes]

    def _score(self, question: Question, prefix: Sequence[Step]) -> float:
        value = TRAP_VALUE if self._misses_trap(prefix) else self.value(prefix)
        texts = (step.text for step in prefix)
        rng = random.Random(derive(self.seed, "noise", question.id, *texts))
        noisy = (-1.0 if value is None else value) + rng.gauss(0, self.noise)
        return min(1.0, max(-1.0, noisy))

    def _misses_trap(self, prefix: Sequence[Step]) -> bool:
        """Whether a recent trap is the only error of a prefix."""
        effects = [effect_of(step) for step in prefix]
        if Effect.TRAP not in effects or not set(effects) <= {Effect.RIGHT, Effect.TRAP}:
            return False
        return len(effects) - effects.index(Effect.TRAP) <= self.blind_steps


@dataclass(frozen=True, slots=True)
class ToyVerifier:
    """A Verifier that compares answer and reference as text."""

    reference: str

    async def judge(self, answer: str) -> Verdict:
        """See `protocols.Verifier`."""
        return Verdict.RIGHT if answer.strip() == self.reference else Verdict.WRONG
