"""A world in which every true value is known: adding numbers, a step a number, by a model that is
sometimes wrong.

    world = ToyWorld(steps=4)
    problem = world.problems(1)[0]
    tree = Tree(problem.question)
    await grow(
        tree, policy=world.policy, executor=world.executor, verifier=world.verifier(problem),
        config=SearchConfig(rollouts=64),
    )
    tree.nodes[ROOT].q, world.value(k=8)

Made for testing and comparing searches: no process, no model, a tree in milliseconds. It is not
like a language model in that its errors are independent of each other and of the problem.
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
    """What a step of the toy world does to the solution."""

    RIGHT = "right"
    SLIP = "slip"
    TRAP = "trap"
    FAILS = "fails"
    DEAD = "dead"
    ANSWER = "answer"


_ENDED = (Effect.FAILS, Effect.DEAD)
_WRONG = (Effect.SLIP, Effect.TRAP)
WORDINGS = 3
"""Ways in which each thing can be said."""


@dataclass(frozen=True, slots=True)
class ToyWorld:
    """Problems, a policy, an executor, a scorer and verifiers that fit together.

    Each sample of a step that adds a number is, independently of all else, one of five things
    with the chances below; what they lack to 1 is the chance of a sample that holds no step (the
    policy counts it as malformed and leaves it out). After the last number a step states what the
    program printed. Immutable; equal worlds behave equally.
    """

    steps: int = 4
    """Numbers to add; a solution has one step for each and one for the answer."""
    right: float = 0.55
    """Adds the right number."""
    slip: float = 0.2
    """Adds a number that is off by a little: runs, looks right, and the answer will be wrong."""
    trap: float = 0.1
    """Adds the number twice, with a reason: the answer will be wrong, and a scorer likes it."""
    fails: float = 0.1
    """Code that raises; the model has nothing to say after it."""
    dead: float = 0.05
    """Code that runs, after which the model has nothing more to say."""
    wordings: int = WORDINGS
    """Ways to say the same, 1 to 3: texts that differ and do the same."""
    seed: int = 0
    """Which problems there are; the policy does not depend on it."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"A toy world has steps = {self.steps}; give it at least 1.")
        if not 1 <= self.wordings <= WORDINGS:
            raise ConfigError(f"wordings = {self.wordings} will not do; give 1 to {WORDINGS}.")
        chances = self._chances()
        for effect, chance in chances.items():
            if not 0 <= chance <= 1:
                raise ConfigError(f"{effect} = {chance} is no probability; give 0 to 1.")
        if sum(chances.values()) > 1 + 1e-9:
            raise ConfigError(
                f"The chances {', '.join(chances)} add up to {sum(chances.values()):.3g}; lower "
                "some until they add up to 1 or less."
            )

    def problems(self, n: int) -> list[Problem]:
        """The first `n` problems of the world; problem 5 is the same whatever `n`."""
        return [self._problem(index) for index in range(n)]

    @property
    def policy(self) -> Policy:
        """The model: K independent samples, which depend only on seed, question and prefix. One
        call costs one call, and a token a word."""
        return ScriptedPolicy(self._sampled)

    @property
    def whole_policy(self) -> Policy:
        """A policy that proposes every step there is (all of a chance above 0), in an order that
        depends on the seed. A search's `candidates` must be `options` or more. The tree is finite,
        and where it is exhausted every Q is `value(prefix, k=None)`."""
        return ScriptedPolicy(self._whole)

    @property
    def options(self) -> int:
        """The most different steps that can follow one prefix."""
        counts = [self._variants(effect) for effect, chance in self._chances().items() if chance]
        return max(sum(counts), self.wordings)

    @property
    def executor(self) -> Executor:
        """Runs the steps without a process and without executing anything."""
        return ToyExecutor()

    def scorer(self, noise: float = 0.2, seed: int = 0, *, blind: int = 2) -> Scorer:
        """A fallible PPM: `value` of the prefix (-1 after failing code and in a dead end) plus
        normal noise of that deviation, cut to [-1, 1]; always the same for the same prefix.

        It takes a trap for something good (0.9) until `blind` steps later, or until the answer is
        stated. One scorer token a word of question and prefix.
        """
        return ToyScorer(self.value, noise, seed, blind)

    def verifier(self, problem: Problem) -> Verifier:
        """Compares with the reference, digit by digit. Raises `InputError` if there is none."""
        if problem.reference is None:
            raise InputError(f"Problem {problem.id} has no reference; take one from problems().")
        return ToyVerifier(problem.reference)

    def value(self, prefix: Sequence[Step] = (), *, k: int | None = 1) -> float | None:
        """What Q estimates at the end of a prefix, in [-1, 1], in closed form: the mean value of
        the answers below it, +1 for a right one and -1 for a wrong one.

        Paths that fail or die on the way have no answer, so they do not count, neither here nor in
        Q; after failing code and in a dead end, from where no answer comes, the value is None.

        - `k = 1`: the mean over random chains, of those that end with an answer. Exact.
        - `k` samples at each node, equal ones merged into one child: expected sum of the values
          divided by expected number of answers, over all trees that are searched to the end. Not
          the k = 1 value, since merging leaves frequent steps less weight: a search that goes on
          tends to count texts, not samples.
        - `k = None`: every node has all its options (`whole_policy`). Exact, tree by tree.

        Holds for a search with a verifier and no scorer; a scorer adds its first values to Q.
        """
        effects = self._effects(prefix)
        if any(effect in _ENDED for effect in effects):
            return None
        # With m equally likely texts, an effect of chance p has D = m (1 - (1 - p/m)^k) children
        # on average among k samples. Nodes are sampled independently, so the expected number of
        # answers below a node with t numbers to go is (D_right + D_slip + D_trap)^t, times the
        # answer's wordings, and that of right ones D_right^t, times the same.
        right = self._children(Effect.RIGHT, k)
        every = right + sum(self._children(effect, k) for effect in _WRONG)
        left = max(self.steps - len(effects), 0)
        if every**left == 0:
            return None
        if any(effect in _WRONG for effect in effects):
            return -1.0
        return (2 * right**left - every**left) / every**left

    def best(self, prefix: Sequence[Step] = ()) -> float:
        """The value under perfect play: +1 if a right answer can still be reached, else -1."""
        return 1.0 if self.pass_rate(prefix) > 0 else -1.0

    def pass_rate(self, prefix: Sequence[Step] = ()) -> float:
        """Chance in [0, 1] that one random chain from here ends with the right answer; failures,
        dead ends and samples without a step count as wrong."""
        effects = self._effects(prefix)
        if any(effect in (*_ENDED, *_WRONG) for effect in effects):
            return 0.0
        return float(self.right ** max(self.steps - len(effects), 0))

    def _chances(self) -> dict[Effect, float]:
        """The chance of each effect that a step before the answer can have."""
        return {
            Effect.RIGHT: self.right,
            Effect.SLIP: self.slip,
            Effect.TRAP: self.trap,
            Effect.FAILS: self.fails,
            Effect.DEAD: self.dead,
        }

    def _variants(self, effect: Effect) -> int:
        """How many texts there are with an effect, all equally likely."""
        return self.wordings * (len(SLIPS) if effect is Effect.SLIP else 1)

    def _children(self, effect: Effect, k: int | None) -> float:
        """Expected number of different steps with an effect among k samples (None: all)."""
        chance, texts = self._chances()[effect], self._variants(effect)
        if k is None:
            return texts if chance else 0
        return chance if k == 1 else texts * (1 - (1 - chance / texts) ** k)

    def _effects(self, prefix: Sequence[Step]) -> list[Effect]:
        """What the steps of a prefix do."""
        found = [effect for effect in map(effect_of, prefix) if effect is not None]
        if len(found) < len(prefix):
            raise InputError("A step of this prefix is not of a toy world; take them from its own.")
        return found

    def _problem(self, index: int) -> Problem:
        rng = random.Random(derive(self.seed, "problem", index))
        numbers = [rng.randint(3, 60) for _ in range(self.steps)]
        question = Question(
            f"toy-{self.steps}-{self.seed}-{index}",
            f"Add up these numbers, one after the other: {', '.join(map(str, numbers))}.",
        )
        return Problem(question, str(sum(numbers)), source="toy")

    def _sampled(self, question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        """K sampled texts."""
        if any(effect in _ENDED for effect in self._effects(prefix)):
            return []
        rng = _rng(question, prefix, seed)
        if prefix and prefix[-1].kind == "code":
            said = _said(prefix[-1])
            return [answer_text(rng.randrange(self.wordings), said) for _ in range(k)]
        numbers, at = self._numbers(question), len(prefix)
        chances = self._chances()
        none = max(0.0, 1 - sum(chances.values()))
        texts: list[str] = []
        for effect in rng.choices([*chances, None], [*chances.values(), none], k=k):
            if effect is None:
                texts.append(stray_text(numbers, at))
            else:
                variant = self._variant(effect, rng.randrange(self._variants(effect)))
                texts.append(step_text(effect, variant, numbers, at))
        return texts

    def _whole(self, question: Question, prefix: Sequence[Step], k: int, seed: int) -> list[str]:
        """Every text of a chance above 0."""
        if k < self.options:
            raise ConfigError(
                f"candidates = {k} is too few for the whole policy of this toy world; set it to "
                f"{self.options} or more."
            )
        if any(effect in _ENDED for effect in self._effects(prefix)):
            return []
        if prefix and prefix[-1].kind == "code":
            return [answer_text(wording, _said(prefix[-1])) for wording in range(self.wordings)]
        numbers, at = self._numbers(question), len(prefix)
        texts = [
            step_text(effect, self._variant(effect, number), numbers, at)
            for effect, chance in self._chances().items()
            if chance
            for number in range(self._variants(effect))
        ]
        _rng(question, prefix, seed).shuffle(texts)
        return texts

    def _variant(self, effect: Effect, number: int) -> int:
        """The variant of `step_text` for text `number` of this world, which may word less."""
        return number // self.wordings * WORDINGS + number % self.wordings

    def _numbers(self, question: Question) -> list[int]:
        """The numbers that a question asks to add."""
        numbers = [int(number) for number in re.findall(r"\d+", question.text)]
        if len(numbers) != self.steps:
            raise InputError(
                f"Question {question.id} names {len(numbers)} numbers, and this toy world adds "
                f"{self.steps}; take questions from its problems()."
            )
        return numbers


def _rng(question: Question, prefix: Sequence[Step], seed: int) -> random.Random:
    """Randomness that depends on what the model is asked, and on nothing else."""
    return random.Random(derive(seed, question.id, question.text, *(step.text for step in prefix)))


def _said(step: Step) -> str:
    """What the program of the last code step printed."""
    return step.execution.stdout.strip() if step.execution else ""


SLIPS = (1, 2, 10)
"""What a slip adds too much. All errors of the toy world are positive, so no two of them cancel:
a sum that is wrong once stays wrong."""
_ADDING = (
    "# The next number of the list is {n}, so the running total s has to grow by just that much.",
    "# Now it is the turn of {n}: put it on top of all that we have added up so far.",
    "# Take {n} from the list, add it to the sum s, and then go on with what is left.",
)
_TRAPPED = (
    "# The number {n} stands out, because the list names it for two people: add it twice.",
    "# Note that {n} counts double, a point that is easy to miss here, so add it two times.",
    "# We have to be careful with {n}: it is needed both before and after, so it goes in twice.",
)
_STRANDED = (
    "# After {n} we would have to know how the list goes on, and the problem does not say.",
    "# Whether {n} is part of the list depends on something that we are not told, so wait.",
    "# Before {n} can be added, the rest of the list must be known, and it is nowhere given.",
)
_ANSWERS = (
    "All the numbers of the list are added now, so their sum is \\boxed{{{said}}}.",
    "The program has printed the sum of the whole list, which is \\boxed{{{said}}}.",
    "So the total that the problem asks for comes to \\boxed{{{said}}} in the end.",
)


def step_text(effect: Effect, variant: int, numbers: Sequence[int], at: int) -> str:
    """Text of the step that adds number `at`, with its mark.

    `variant` ranges from 0 to `WORDINGS * len(SLIPS) - 1`.
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
    said = {Effect.TRAP: _TRAPPED, Effect.DEAD: _STRANDED}.get(effect, _ADDING)[wording]
    start = "" if at else "s = 0\n"
    end = "print(s)\n<code/>" if at == len(numbers) - 1 else "<step/>"
    return f"{said.format(n=n)}\n{start}{code}\n{end}"


def answer_text(wording: int, said: str) -> str:
    """Text of the step that states what the program printed."""
    return _ANSWERS[wording].format(said=said) + "\n<answer/>"


def stray_text(numbers: Sequence[int], at: int) -> str:
    """A sample without a step in it: an answer in the middle of the code."""
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
    """What a step does, from its text alone (a slip names one number and adds another); None for
    one that the toy world did not write."""
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
    """An Executor for the toy world's steps: reads them instead of executing them, so that it is
    safe and takes microseconds. Any other code is a SyntaxError."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        """See `protocols.Executor`."""
        total: int | None = None
        for before in prefix:
            total, _ = _run(before.code, total)
        return _run(step.code, total)[1]


def _run(code: str, total: int | None) -> tuple[int | None, Execution]:
    """`s` after some code (None: not defined), and how running it went."""
    printed = ""
    for line in code.splitlines():
        change = _CHANGE.fullmatch(line)
        if line == "s = 0":
            total = 0
        elif change is None and line != "print(s)":
            return total, _error("SyntaxError", "the toy world runs its own steps only", printed)
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


TEMPTING = 0.9
"""What the scorer sees in a trap that it has not noticed."""


@dataclass(frozen=True, slots=True)
class ToyScorer:
    """A Scorer made of true values, noise and a blind spot; see `ToyWorld.scorer`."""

    value: Callable[[Sequence[Step]], float | None]
    noise: float
    seed: int
    blind: int

    async def score(self, question: Question, prefixes: Sequence[Sequence[Step]]) -> list[float]:
        """See `protocols.Scorer`."""
        read = [question.text, *(step.text for prefix in prefixes for step in prefix)]
        words = sum(len(text.split()) for text in read[1:]) + len(read[0].split()) * len(prefixes)
        add_cost(Cost(scorer_tokens=words))
        return [self._score(question, prefix) for prefix in prefixes]

    def _score(self, question: Question, prefix: Sequence[Step]) -> float:
        value = TEMPTING if self._tempted(prefix) else self.value(prefix)
        texts = (step.text for step in prefix)
        rng = random.Random(derive(self.seed, "noise", question.id, *texts))
        noisy = (-1.0 if value is None else value) + rng.gauss(0, self.noise)
        return min(1.0, max(-1.0, noisy))

    def _tempted(self, prefix: Sequence[Step]) -> bool:
        """Whether a trap is all that is wrong with a prefix, and not yet noticed."""
        effects = [effect_of(step) for step in prefix]
        if Effect.TRAP not in effects or not set(effects) <= {Effect.RIGHT, Effect.TRAP}:
            return False
        return len(effects) - effects.index(Effect.TRAP) <= self.blind


@dataclass(frozen=True, slots=True)
class ToyVerifier:
    """A Verifier that compares with the reference, character by character."""

    reference: str

    async def judge(self, answer: str) -> Verdict:
        """See `protocols.Verifier`."""
        return Verdict.RIGHT if answer.strip() == self.reference else Verdict.WRONG
