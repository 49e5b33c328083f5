"""Stories of fractions and percentages; the question is the part, the rest or the whole."""

from math import gcd

from tools.stories.words import StoryText, Vocabulary, mark

_PARTS = {2: "half", 3: "a third", 4: "a quarter", 5: "a fifth"}


def part(w: Vocabulary) -> StoryText:
    """A fraction of some things is given away, sold or lost."""
    (p,), things = w.people(), w.things()
    k = w.pick(2, 2, 3, 4, 5)
    share = w.number(2, 40)
    whole, rest = k * share, k * share - share
    word = _PARTS[k]
    verb = w.pick("gave away", "sold", "lost", "used", "ate" if things.endswith("es") else "sold")
    asked = w.pick("part", "rest", "whole", "then")
    first = f"{word.capitalize()} of {whole} is {mark(f'{whole} / {k}', share)}."
    if asked == "part":
        body = f"{p.name} had {whole} {things} and {verb} {word} of them."
        question = f"How many {things} {w.pick('were these', 'is that')}?"
        return StoryText("part", body, question, (first,), share)
    if asked == "whole":
        body = f"{p.name} {verb} {share} {things}, which was {word} of all {p.he} had."
        question = f"How many {things} did {p.name} have {w.pick('before', 'at first')}?"
        lines = (f"{p.name} had {mark(f'{share} * {k}', whole)} {things}.",)
        return StoryText("part", body, question, lines, whole)
    second = f"{p.name} has {mark(f'{whole} - {share}', rest)} {things} left."
    if asked == "rest":
        body = w.pick(
            f"{p.name} had {whole} {things} and {verb} {word} of them.",
            f"Of {p.his} {whole} {things} {p.name} {verb} {word}.",
        )
        question = f"How many {things} are left?"
        return StoryText("part twice", body, question, (first, second), rest)
    more = w.number(2, 40)
    body = f"{p.name} had {whole} {things}. {p.He} {verb} {word} of them and then got {more} more."
    question = f"How many {things} does {p.he} have now?"
    third = f"Now {p.he} has {mark(f'{rest} + {more}', rest + more)} {things}."
    return StoryText("part twice", body, question, (first, second, third), rest + more)


def percents(w: Vocabulary) -> StoryText:
    """A percentage of people or things."""
    percent = w.pick(10, 20, 25, 30, 40, 50, 60, 75, 80, 90)
    step = 100 // gcd(percent, 100)
    whole = step * w.number(2, max(3, 300 // step))
    share = whole * percent // 100
    who, which, others = w.pick(
        ("pupils", "walk to school", "take the bus"), ("guests", "ate fish", "ate soup"),
        ("members", "are adults", "are children"), ("trees", "are oaks", "are pines"),
        ("seats", "are taken", "are free"), ("workers", "come by train", "come by car"),
        ("flowers", "are red", "are white"), ("players", "are girls", "are boys"),
    )  # fmt: skip
    body = w.pick(
        f"There are {whole} {who}. {percent}% of them {which} and the others {others}.",
        f"Of {whole} {who} {percent}% {which}. All others {others}.",
    )
    first = f"{share} {who} {which}: {mark(f'{whole} * {percent} / 100', share)}."
    asked = w.pick("part", "rest", "difference")
    if asked == "part":
        question = f"How many {who} {which}?"
        return StoryText("percent", body, question, (first,), share)
    rest = whole - share
    second = f"The others are {mark(f'{whole} - {share}', rest)}."
    if asked == "rest" or share == rest:
        question = f"How many {who} {others}?"
        return StoryText("percent twice", body, question, (first, second), rest)
    most, least = max(share, rest), min(share, rest)
    question = "How many more are in the larger group than in the smaller one?"
    third = f"The difference is {mark(f'{most} - {least}', most - least)}."
    return StoryText("percent twice", body, question, (first, second, third), most - least)


def discounts(w: Vocabulary) -> StoryText:
    """A price that is lowered or raised by a percentage."""
    ((one, ones),), (p,) = w.sold(), w.people()
    percent = w.pick(10, 20, 25, 50)
    step = 100 // percent if percent != 20 else 5
    price = step * w.number(2, 30)
    off = price * percent // 100
    down = w.chance(0.7)
    new = price - off if down else price + off
    n = w.number(2, 8)
    body = w.pick(
        f"A {one} costs {price} dollars. In the sale it is {percent}% cheaper."
        if down
        else f"A {one} cost {price} dollars last year. Now it costs {percent}% more.",
        f"The price of a {one} was {price} dollars before it was {'lowered' if down else 'raised'} "
        f"by {percent}%.",
    )
    first = f"{percent}% of {price} is {mark(f'{price} * {percent} / 100', off)} dollars."
    sign = "-" if down else "+"
    second = f"Now a {one} costs {mark(f'{price} {sign} {off}', new)} dollars."
    asked = w.pick("off", "new", "several")
    if asked == "off":
        question = "By how many dollars did the price change?"
        return StoryText("percent", body, question, (first,), off)
    if asked == "new":
        question = f"How many dollars does a {one} cost now?"
        return StoryText("percent twice", body, question, (first, second), new)
    question = f"How many dollars does {p.name} pay for {n} {ones} now?"
    third = f"{n} {ones} cost {mark(f'{n} * {new}', n * new)} dollars."
    return StoryText("percent twice", body, question, (first, second, third), n * new)


def two_parts(w: Vocabulary) -> StoryText:
    """A fraction, followed by a fraction of the rest."""
    (p,), things = w.people(), w.things()
    k, m = w.pick(2, 3, 4), w.pick(2, 3, 4)
    rest = m * w.number(2, 15)
    if (k * rest) % (k - 1):
        rest *= k - 1
    whole = k * rest // (k - 1)
    gone, more = whole - rest, rest // m
    end = rest - more
    one, two = w.pick(
        ("gave", "sold"), ("lost", "gave away"), ("used", "threw away"), ("sold", "kept")
    )
    body = (
        f"{p.name} had {whole} {things}. {p.He} {one} {_PARTS[k]} of them "
        f"{'to a friend ' if one == 'gave' else ''}and {two} {_PARTS[m]} of the rest."
    )
    lines = (
        f"{p.name} {one} {mark(f'{whole} / {k}', gone)} {things}.",
        f"Then there were {mark(f'{whole} - {gone}', rest)} {things}.",
        f"{p.He} {two} {mark(f'{rest} / {m}', more)} of these.",
    )
    if two == "kept" or w.chance(0.3):
        question = f"How many {things} is the second part?"
        return StoryText("part twice", body, question, lines, more)
    question = f"How many {things} are left in the end?"
    last = f"In the end {mark(f'{rest} - {more}', end)} {things} are left."
    return StoryText("part twice", body, question, (*lines, last), end)


SCHEMES = (part, percents, discounts, two_parts)
