"""Stories of change: schemes of Riley, Greeno and Heller (1983).

Each number of a scheme can be the unknown.
"""

from tools.stories.words import StoryText, Vocabulary, larger_first, mark


def gains(w: Vocabulary) -> StoryText:
    """A person gains things; the question is the end, the change or the beginning."""
    (p,), things = w.people(), w.things()
    a, b = w.amount(), w.amount()
    how = w.pick("found", "bought", "was given", "won", "collected")
    asked = w.pick("end", "change", "start")
    if asked == "end":
        body = w.pick(
            f"{p.name} had {a} {things}. {p.He} {how} {b} more.",
            f"{p.name} {how} {b} {things}. {p.He} already had {a} {things}.",
        )
        question = f"How many {things} does {p.name} have {w.pick('now', 'in all', 'altogether')}?"
        lines: tuple[str, ...] = (f"{p.name} has {mark(f'{a} + {b}', a + b)} {things}.",)
        return StoryText("change", body, question, lines, a + b)
    if asked == "change":
        body = f"{p.name} had {a} {things}. {p.He} {how} some more and now has {a + b} {things}."
        question = f"How many {things} did {p.he} get?"
        lines = (f"{p.He} got {mark(f'{a + b} - {a}', b)} {things}.",)
        return StoryText("change", body, question, lines, b)
    body = w.pick(
        f"{p.name} {how} {b} {things} today. Now {p.he} has {a + b} {things}.",
        f"After {p.name} {how} {b} {things}, {p.he} has {a + b} of them.",
    )
    question = (
        f"How many {things} did {p.name} have {w.pick('before', 'to begin with', 'at first')}?"
    )
    lines = (f"Before, {p.name} had {mark(f'{a + b} - {b}', a)} {things}.",)
    return StoryText("change", body, question, lines, a)


def loses(w: Vocabulary) -> StoryText:
    """A person gives things away; the question is the end, the change or the beginning."""
    (p, other), things = w.people(2), w.things()
    b = w.amount()
    a = w.larger(b)
    how = w.pick(
        f"gave {other.name}", "lost", "sold", "used up", "gave away", f"handed {other.name}"
    )
    asked = w.pick("end", "change", "start", "start")
    if asked == "end":
        body = w.pick(
            f"{p.name} had {a} {things} and {how} {b} of them.",
            f"Of {p.his} {a} {things} {p.name} {how} {b}.",
        )
        question = w.pick(
            f"How many {things} does {p.name} have left?", f"How many {things} are left?"
        )
        lines: tuple[str, ...] = (f"{p.name} has {mark(f'{a} - {b}', a - b)} {things} left.",)
        return StoryText("change", body, question, lines, a - b)
    if asked == "change":
        body = f"{p.name} had {a} {things}. {p.He} {how} some and has {a - b} left."
        question = f"How many {things} did {p.name} part with?"
        lines = (f"{p.He} parted with {mark(f'{a} - {a - b}', b)} {things}.",)
        return StoryText("change", body, question, lines, b)
    body = w.pick(
        f"{p.name} {how} {b} {things}. {p.He} has {a - b} {things} left.",
        f"{p.name} {how} {b} of {p.his} {things} and still has {a - b}.",
    )
    question = (
        f"How many {things} did {p.name} have {w.pick('in the beginning', 'before', 'at first')}?"
    )
    lines = (f"At first {p.name} had {mark(f'{a - b} + {b}', a)} {things}.",)
    return StoryText("change", body, question, lines, a)


def comes_and_goes(w: Vocabulary) -> StoryText:
    """People leave and enter a place; the question is the end, the beginning or the difference."""
    place, who = w.pick(
        ("bus", "passengers"), ("library", "visitors"), ("cafe", "guests"), ("park", "children"),
        ("parking lot", "cars"), ("pond", "ducks"), ("train", "travellers"), ("museum", "people"),
    )  # fmt: skip
    out, into = w.amount(), w.amount()
    if out == into:
        into += 3
    start = w.larger(out)
    end = start - out + into
    asked = w.pick("end", "start", "difference")
    moves = w.pick(
        f"Then {out} left and {into} {w.pick('came', 'arrived')}.",
        f"{out} {who} left it, and {into} others came in.",
    )
    if asked == "end":
        body = f"There were {start} {who} {_at(place)} {place}. {moves}"
        question = f"How many {who} are there now?"
        lines: tuple[str, ...] = (
            f"After some left there were {mark(f'{start} - {out}', start - out)} {who}.",
            f"Now there are {mark(f'{start - out} + {into}', end)} {who}.",
        )
        return StoryText("change twice", body, question, lines, end)
    if asked == "start":
        body = f"There were some {who} {_at(place)} {place}. {moves} Now there are {end} {who}."
        question = f"How many {who} were there {w.pick('at first', 'in the beginning')}?"
        lines = (
            f"Before others came there were {mark(f'{end} - {into}', end - into)} {who}.",
            f"At first there were {mark(f'{end - into} + {out}', start)} {who}.",
        )
        return StoryText("change twice", body, question, lines, start)
    body = f"There were {start} {who} {_at(place)} {place}. {moves}"
    most, least = max(out, into), min(out, into)
    more = "left than came" if out > into else "came than left"
    question = f"How many more {who} {more}?"
    lines = (f"{mark(f'{most} - {least}', most - least)} more {who} {more}.",)
    return StoryText("compare", body, question, lines, most - least)


def _at(place: str) -> str:
    return "on the" if place in ("bus", "train", "pond") else "in the"


def two_sorts(w: Vocabulary) -> StoryText:
    """Two kinds of things, some taken away; the question decides which numbers matter."""
    (p,), (one, two) = w.people(), w.pair()
    a, b = w.amount(4), w.amount(4)
    if a == b:
        b += 2
    took = w.number(2, a - 1)
    verb = w.pick("gave away", "sold", "lost", "used")
    body = f"{p.name} had {a} {one} and {b} {two}. {p.He} {verb} {took} of the {one}."
    asked = w.pick("one left", "all left", "more before", "all before")
    if asked == "one left":
        question = f"How many {one} does {p.he} have left?"
        lines: tuple[str, ...] = (f"{p.name} has {mark(f'{a} - {took}', a - took)} {one} left.",)
        return StoryText("change", body, question, lines, a - took)
    if asked == "all left":
        question = f"How many {one} and {two} does {p.he} have left?"
        lines = (
            f"There are {mark(f'{a} - {took}', a - took)} {one} left.",
            f"Together there are {mark(f'{a - took} + {b}', a - took + b)} {one} and {two}.",
        )
        return StoryText("change twice", body, question, lines, a - took + b)
    if asked == "all before":
        question = f"How many {one} and {two} did {p.he} have in the beginning?"
        lines = (f"In the beginning there were {mark(f'{a} + {b}', a + b)} of them.",)
        return StoryText("combine", body, question, lines, a + b)
    (most, more), (least, less) = larger_first((a, one), (b, two))
    question = f"How many more {more} than {less} did {p.he} have at first?"
    lines = (f"There were {mark(f'{most} - {least}', most - least)} more {more} than {less}.",)
    return StoryText("compare", body, question, lines, most - least)


def grows(w: Vocabulary) -> StoryText:
    """A length or weight that changes over time; the question is one value or the total change."""
    what, unit, up, down = w.pick(
        ("hair", "centimetres long", "grew", "cut off"),
        ("rope", "metres long", "was lengthened by", "cut off"),
        ("dog", "kilograms heavy", "gained", "lost"),
        ("snake", "kilograms heavy", "gained", "lost"),
    )
    (p,) = w.people()
    noun = unit.split()[0]
    b, c = w.number(2, 40), w.number(2, 40)
    a = w.larger(max(b, c))
    if down == "cut off":
        first, second = f"{p.He} cut off {b} {noun}.", f"Later it {up} {c} {noun}."
    else:
        first, second = f"In spring it lost {b} {noun}.", f"In summer it gained {c} {noun}."
    body = f"{p.name}'s {what} was {a} {unit}. {first} {second}"
    if w.chance(0.4):
        question = f"How many {noun} did it measure before the second change?"
        lines: tuple[str, ...] = (
            f"After the first change it was {mark(f'{a} - {b}', a - b)} {noun}.",
        )
        return StoryText("change", body, question, lines, a - b)
    question = f"How many {noun} is it now?"
    lines = (
        f"After the first change it was {mark(f'{a} - {b}', a - b)} {noun}.",
        f"Now it is {mark(f'{a - b} + {c}', a - b + c)} {noun}.",
    )
    return StoryText("change twice", body, question, lines, a - b + c)


def days(w: Vocabulary) -> StoryText:
    """An activity on several days; the question is a sum, a difference or one day."""
    (p,) = w.people()
    did, things = w.pick(
        ("read", "pages"), ("picked", "berries"), ("baked", "rolls"), ("walked", "miles"),
        ("typed", "letters"), ("caught", "fish"), ("sold", "papers"), ("planted", "seeds"),
        ("painted", "tiles"), ("did", "push-ups"),
    )  # fmt: skip
    b, c = w.amount(), w.amount()
    a = w.larger(max(b, c))
    one, two, three = w.pick(("Monday", "Tuesday", "Friday"), ("May", "June", "July"))
    body = (
        f"{p.name} {did} {a} {things} {_in(one)} {one}, {b} {_in(two)} {two} and "
        f"{c} {_in(three)} {three}."
    )
    asked = w.pick("sum", "two", "difference", "against both")
    if asked == "sum":
        question = f"How many {things} is that {w.pick('in all', 'altogether')}?"
        lines: tuple[str, ...] = (
            f"In all that is {mark(f'{a} + {b} + {c}', a + b + c)} {things}.",
        )
        return StoryText("combine", body, question, lines, a + b + c)
    if asked == "two":
        question = f"How many {things} were it {_in(one)} {one} and {three} together?"
        lines = (f"Together they are {mark(f'{a} + {c}', a + c)} {things}.",)
        return StoryText("combine", body, question, lines, a + c)
    if asked == "difference":
        question = f"How many more {things} were it {_in(one)} {one} than {_in(two)} {two}?"
        lines = (f"The difference is {mark(f'{a} - {b}', a - b)} {things}.",)
        return StoryText("compare", body, question, lines, a - b)
    goal = a + b + c + w.number(3, 40)
    question = f"How many more {things} are needed for {goal}?"
    lines = (
        f"So far there are {mark(f'{a} + {b} + {c}', a + b + c)} {things}.",
        f"Needed are {mark(f'{goal} - {a + b + c}', goal - a - b - c)} {things}.",
    )
    return StoryText("combine twice", body, question, lines, goal - a - b - c)


def _in(when: str) -> str:
    return "on" if when.endswith("day") else "in"


SCHEMES = (gains, loses, comes_and_goes, two_sorts, grows, days)
