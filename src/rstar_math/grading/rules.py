"""The judgement of a pair, as far as exact arithmetic and the policy on shapes take it."""

import re

from rstar_math.grading import exact
from rstar_math.grading.approximate import approximate
from rstar_math.grading.cleaning import clean
from rstar_math.grading.equality import equal
from rstar_math.grading.equations import Scalars
from rstar_math.grading.extract import boxed, stated
from rstar_math.grading.judgement import Judgement, right, unknown, wrong
from rstar_math.grading.limits import MAX_ANSWER_CHARS, Refused, Undecided, Unreadable
from rstar_math.grading.nodes import SCALARS, Bag, Braced, Node, Num, Seq, Word, symbols
from rstar_math.grading.reading import form, read, read_as_list

NO_ANSWER = wrong("The answer is empty.")
NO_REFERENCE = unknown("The reference is empty.")
SAME_TEXT = right("The two are the same text.")
UNREADABLE = unknown("The answer cannot be read as mathematics.")
UNREADABLE_REFERENCE = unknown("The reference cannot be read as mathematics.")
_SIGN = re.compile(r"\w|\\\{\s*\\\}")
_TEXT = re.compile(r"\\text\s*\{([^{}$]{2,})\}")
_LOOSE_SPACE = re.compile(r"(?<!\w) | (?!\w)")


class Exact:
    """Scalars compared by exact values and by form alone."""

    def same(self, a: Node, b: Node) -> bool:
        """Whether two scalars are equal. Raises `Undecided` where neither their values nor their
        forms can tell."""
        left, right_ = exact.value(a), exact.value(b)
        if left is not None and right_ is not None:
            return exact.equal_numbers(left, right_)
        if form(a) == form(b):
            return True
        raise Undecided

    def ratio(self, a: Node, b: Node) -> int:
        """1 for two of the same form. Raises `Undecided` for all others."""
        if form(a) == form(b):
            return 1
        raise Undecided


def quick(pred: str, gold: str) -> Judgement | None:
    """The judgement where it needs no engine, else None. Bounded work: no number is built beyond
    the caps, and no loop goes round more often than the texts are long."""
    try:
        return judge(pred, gold, Exact())
    except (Undecided, Unreadable):
        return None


def judge(pred: str, gold: str, scalars: Scalars) -> Judgement:
    """The judgement of a pair with the given way to compare scalars. Raises `Undecided` where
    those are not enough, `Unreadable` where one side is no mathematics that the reader knows."""
    answer, reference = core(pred), core(gold)
    if not _SIGN.search(answer):
        return NO_ANSWER
    if not _SIGN.search(reference):
        return NO_REFERENCE
    if _tight(answer) in (_tight(reference), _tight(clean(gold[: MAX_ANSWER_CHARS + 1]))):
        return SAME_TEXT
    try:
        left, right_ = read(answer), read(reference)
        same = equal(left, right_, scalars) or _as_lists(answer, reference, left, right_, scalars)
    except Refused as refusal:
        return unknown(str(refusal))
    return _explained(right_, same)


def _tight(text: str) -> str:
    """The text without the spaces that part nothing; 1 2 is not 12."""
    return _LOOSE_SPACE.sub("", text)


def _as_lists(answer: str, reference: str, left: Node, right_: Node, scalars: Scalars) -> bool:
    """Whether the two are equal when 1,200 is the list 1, 200, the other side being a list."""
    lists = Bag | Braced | Seq
    if isinstance(left, Num) and isinstance(right_, lists):
        other = read_as_list(answer)
        return other is not None and equal(other, right_, scalars)
    if isinstance(right_, Num) and isinstance(left, lists):
        other = read_as_list(reference)
        return other is not None and equal(left, other, scalars)
    return False


def core(text: str) -> str:
    """The answer in a text, cleaned: what its last box holds, what its sentence states, or all of
    it."""
    found = boxed(text) if "box" in text else None
    if found is None and len(text) >= 6:
        found = stated(_TEXT.sub(r"\1", text) if "\\text" in text else text)
    if found is None:
        found = text
    return clean(found) if len(found) <= MAX_ANSWER_CHARS else found.strip()


def _explained(reference: Node, same: bool) -> Judgement:
    if isinstance(reference, Word):
        kind = "words"
    elif exact.value(reference) is not None:
        kind = "numbers"
    elif isinstance(reference, SCALARS):
        kind = "expressions"
    else:
        kind = {
            "Seq": "sequences or intervals", "Bag": "lists", "Braced": "sets", "Region": "sets",
            "Builder": "sets", "Rel": "equations or inequalities", "Matrix": "matrices",
            "Choice": "options", "Clock": "times", "Ratio": "ratios",
        }[type(reference).__name__]  # fmt: skip
    return right(f"The two are equal as {kind}.") if same else wrong(f"The two differ as {kind}.")


def bucket(answer: str) -> object:
    """A key that only equal answers share, or None for an answer that cannot be read."""
    try:
        node = read(core(answer))
    except (Unreadable, Refused):
        return None
    number = exact.value(node)
    if number is not None:
        return ("number", number.value)
    return (type(node).__name__, form(node))


def may_equal(a: str, b: str) -> bool:
    """Whether two answers could be equal, by rough values at one fixed point; errs towards yes."""
    try:
        left, right_ = read(core(a)), read(core(b))
    except (Unreadable, Refused):
        return True
    if isinstance(left, Word) != isinstance(right_, Word):
        return False
    if not isinstance(left, SCALARS) or not isinstance(right_, SCALARS):
        return True
    names = sorted(symbols(left) | symbols(right_))
    point = {name: complex(0.37 + 0.59 * k) for k, name in enumerate(names)}
    x, y = approximate(left, point), approximate(right_, point)
    if x is None or y is None:
        return True
    return abs(x - y) <= 1e-4 * max(abs(x), abs(y)) or max(abs(x), abs(y)) < 1e-6


def normal_form(text: str) -> str | None:
    """What an answer reads as, in one line, or None where it cannot be read."""
    answer = core(text)
    try:
        return form(read(answer)) if answer else None
    except (Unreadable, Refused):
        return None
