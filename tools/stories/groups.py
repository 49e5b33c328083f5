"""Stories of equal groups, prices, rates and multiples.

The multiplicative schemes of Vergnaud (1983) and Greer (1992), alone and combined with additive
schemes.
"""

from tools.stories.words import StoryText, Vocabulary, larger_first, mark


def packs(w: Vocabulary) -> StoryText:
    """Things in containers; the question is the total, the containers or the content of one."""
    (p,), things, (box, boxes) = w.people(), w.things(), w.box()
    each, count = w.number(2, 25), w.number(2, 30)
    whole = each * count
    asked = w.pick("whole", "count", "each")
    if asked == "whole":
        body = w.pick(
            f"{p.name} has {count} {boxes}. There are {each} {things} in each {box}.",
            f"Each {box} holds {each} {things}, and {p.name} filled {count} {boxes}.",
        )
        question = f"How many {things} does {p.name} have in the {boxes}?"
        lines: tuple[str, ...] = (f"There are {mark(f'{count} * {each}', whole)} {things}.",)
        return StoryText("groups", body, question, lines, whole)
    if asked == "count":
        body = f"{p.name} has {whole} {things} and puts {each} of them into each {box}."
        question = f"How many {boxes} does {p.he} need?"
        lines = (f"{p.name} needs {mark(f'{whole} / {each}', count)} {boxes}.",)
        return StoryText("groups", body, question, lines, count)
    body = w.pick(
        f"{p.name} put {whole} {things} into {count} {boxes}, the same number into each.",
        f"There are {whole} {things} in {count} {boxes} of the same size.",
    )
    question = f"How many {things} are in each {box}?"
    lines = (f"Each {box} has {mark(f'{whole} / {count}', each)} {things}.",)
    return StoryText("groups", body, question, lines, each)


def packs_of_two(w: Vocabulary) -> StoryText:
    """Two kinds of things in containers, of which one or both matter."""
    (p,), (one, two), (box, boxes) = w.people(), w.pair(), w.box()
    a, b, c = w.number(2, 20), w.number(2, 20), w.number(2, 12)
    if a == b:
        a += 1
    body = f"{p.name} has {c} {boxes}. In each {box} there are {a} {one} and {b} {two}."
    asked = w.pick("one", "two", "all", "difference")
    if asked in ("one", "two"):
        what, n = (one, a) if asked == "one" else (two, b)
        question = f"How many {what} are there in the {boxes}?"
        lines: tuple[str, ...] = (f"There are {mark(f'{c} * {n}', c * n)} {what}.",)
        return StoryText("groups", body, question, lines, c * n)
    if asked == "all":
        question = f"How many {one} and {two} are there altogether?"
        lines = (
            f"Each {box} has {mark(f'{a} + {b}', a + b)} of them.",
            f"Altogether there are {mark(f'{c} * {a + b}', c * (a + b))} {one} and {two}.",
        )
        return StoryText("groups twice", body, question, lines, c * (a + b))
    (most, more), (least, less) = larger_first((a, one), (b, two))
    question = f"How many more {more} than {less} are there in all {c} {boxes} together?"
    lines = (
        f"In each {box} there are {mark(f'{most} - {least}', most - least)} more {more}.",
        f"In all that is {mark(f'{c} * {most - least}', c * (most - least))} more {more}.",
    )
    return StoryText("groups twice", body, question, lines, c * (most - least))


def shares(w: Vocabulary) -> StoryText:
    """Things shared among people after a change, or with an irrelevant number."""
    (p,), food = w.people(), w.food()
    who = w.pick("friends", "children", "neighbours", "guests", "classmates")
    count, each = w.number(2, 12), w.number(2, 20)
    whole = count * each
    asked = w.pick("plain", "after", "idle", "given")
    if asked == "plain":
        body = f"{p.name} shares {whole} {food} equally among {count} {who}."
        question = f"How many {food} does each of them get?"
        lines: tuple[str, ...] = (f"Each gets {mark(f'{whole} / {count}', each)} {food}.",)
        return StoryText("groups", body, question, lines, each)
    if asked == "after":
        ate = w.number(2, 15)
        body = (
            f"{p.name} had {whole + ate} {food}. {p.He} ate {ate} and shared the others equally "
            f"among {count} {who}."
        )
        question = f"How many {food} did each of the {who} get?"
        lines = (
            f"There were {mark(f'{whole + ate} - {ate}', whole)} {food} to share.",
            f"Each got {mark(f'{whole} / {count}', each)} {food}.",
        )
        return StoryText("groups twice", body, question, lines, each)
    if asked == "idle":
        old = w.number(20, 60)
        body = f"{p.name}, who is {old} years old, has {whole} {food} for {count} {who}."
        question = f"If all get the same, how many {food} does each get?"
        lines = (f"Each gets {mark(f'{whole} / {count}', each)} {food}.",)
        return StoryText("groups", body, question, lines, each)
    left = w.number(2, 30)
    body = f"{p.name} gave {each} {food} to each of {p.his} {count} {who} and has {left} left."
    question = f"How many {food} did {p.name} have at first?"
    lines = (
        f"{p.name} gave away {mark(f'{count} * {each}', whole)} {food}.",
        f"At first there were {mark(f'{whole} + {left}', whole + left)} {food}.",
    )
    return StoryText("groups twice", body, question, lines, whole + left)


def prices(w: Vocabulary) -> StoryText:
    """Two priced things; the question is a sum, a difference, the change or a number of things."""
    (p,), ((one, ones), (two, twos)) = w.people(), w.sold(2)
    a, b = w.number(2, 40), w.number(2, 40)
    x, y = w.number(2, 12), w.number(2, 12)
    if a == b:
        a += 3
    body = (
        f"A {one} costs {a} dollars and a {two} costs {b} dollars. "
        f"{p.name} {w.pick('bought', 'buys')} {x} {ones} and {y} {twos}."
    )
    asked = w.pick("one", "both", "dearer", "count", "change")
    if asked == "one":
        question = f"How many dollars do the {ones} cost?"
        lines: tuple[str, ...] = (f"The {ones} cost {mark(f'{x} * {a}', x * a)} dollars.",)
        return StoryText("price", body, question, lines, x * a)
    if asked == "dearer":
        (most, more), (least, less) = larger_first((a, one), (b, two))
        question = f"How many dollars more does a {more} cost than a {less}?"
        lines = (f"A {more} costs {mark(f'{most} - {least}', most - least)} dollars more.",)
        return StoryText("compare", body, question, lines, most - least)
    if asked == "count":
        question = "How many things is that in all?"
        lines = (f"These are {mark(f'{x} + {y}', x + y)} things.",)
        return StoryText("combine", body, question, lines, x + y)
    total = x * a + y * b
    lines = (
        f"The {ones} cost {mark(f'{x} * {a}', x * a)} dollars.",
        f"The {twos} cost {mark(f'{y} * {b}', y * b)} dollars.",
        f"Together that is {mark(f'{x * a} + {y * b}', total)} dollars.",
    )
    if asked == "both":
        question = f"How many dollars does {p.he} pay?"
        return StoryText("price twice", body, question, lines, total)
    paid = total + w.number(2, 60)
    question = f"{p.He} pays with {paid} dollars. How many dollars does {p.he} get back?"
    lines += (f"{p.name} gets back {mark(f'{paid} - {total}', paid - total)} dollars.",)
    return StoryText("price twice", body, question, lines, paid - total)


def buys(w: Vocabulary) -> StoryText:
    """One priced thing; the question is the price, the number, the sum or the rest."""
    (p,), ((one, ones),) = w.people(), w.sold()
    a, x = w.number(2, 50), w.number(2, 20)
    cost = a * x
    asked = w.pick("each", "count", "sum", "left", "had")
    if asked == "each":
        body = f"{p.name} paid {cost} dollars for {x} {ones}."
        question = f"How many dollars did each {one} cost?"
        lines: tuple[str, ...] = (f"Each {one} cost {mark(f'{cost} / {x}', a)} dollars.",)
        return StoryText("price", body, question, lines, a)
    if asked == "count":
        body = f"{p.name} spent {cost} dollars on {ones} at {a} dollars each."
        question = f"How many {ones} did {p.he} get?"
        lines = (f"{p.name} got {mark(f'{cost} / {a}', x)} {ones}.",)
        return StoryText("price", body, question, lines, x)
    if asked == "sum":
        body = f"{p.name} {w.pick('sells', 'sold')} {x} {ones} for {a} dollars each."
        question = f"How many dollars does {p.he} get?"
        lines = (f"{p.name} gets {mark(f'{x} * {a}', cost)} dollars.",)
        return StoryText("price", body, question, lines, cost)
    left = w.number(2, 90)
    first = f"The {ones} cost {mark(f'{x} * {a}', cost)} dollars."
    if asked == "left":
        body = f"{p.name} had {cost + left} dollars and bought {x} {ones} for {a} dollars each."
        question = f"How many dollars does {p.he} have left?"
        second = f"{p.name} has {mark(f'{cost + left} - {cost}', left)} dollars left."
        return StoryText("price twice", body, question, (first, second), left)
    body = f"{p.name} bought {x} {ones} for {a} dollars each and has {left} dollars left."
    question = f"How many dollars did {p.he} have before?"
    second = f"Before, {p.name} had {mark(f'{cost} + {left}', cost + left)} dollars."
    return StoryText("price twice", body, question, (first, second), cost + left)


def times(w: Vocabulary) -> StoryText:
    """A multiple; the question is either number, the factor, the sum or the difference."""
    (p, q), things = w.people(2), w.things()
    b, k = w.number(2, 40), w.number(2, 9)
    a = b * k
    often = {2: "twice", 3: w.pick("three times", "3 times")}.get(k, f"{k} times")
    asked = w.pick("larger", "smaller", "factor", "both", "more")
    told = f"{p.name} has {often} as many {things} as {q.name}."
    if asked == "factor":
        body = f"{p.name} has {a} {things} and {q.name} has {b}."
        question = f"How many times as many {things} as {q.name} does {p.name} have?"
        lines: tuple[str, ...] = (f"{p.name} has {mark(f'{a} / {b}', k)} times as many.",)
        return StoryText("times", body, question, lines, k)
    if asked == "smaller":
        body = f"{p.name} has {a} {things}, {often} as many as {q.name}."
        question = f"How many {things} does {q.name} have?"
        lines = (f"{q.name} has {mark(f'{a} / {k}', b)} {things}.",)
        return StoryText("times", body, question, lines, b)
    body = w.shuffled([told, f"{q.name} has {b} {things}."])
    first = f"{p.name} has {mark(f'{b} * {k}', a)} {things}."
    if asked == "larger":
        question = f"How many {things} does {p.name} have?"
        return StoryText("times", body, question, (first,), a)
    if asked == "both":
        question = f"How many {things} do they have together?"
        second = f"Together they have {mark(f'{a} + {b}', a + b)} {things}."
        return StoryText("times twice", body, question, (first, second), a + b)
    question = f"How many more {things} does {p.name} have than {q.name}?"
    second = f"{p.name} has {mark(f'{a} - {b}', a - b)} more {things}."
    return StoryText("times twice", body, question, (first, second), a - b)


def rates(w: Vocabulary) -> StoryText:
    """A rate per unit of time; the question is the total, the time, the rate or one day."""
    (p,) = w.people()
    does, did, things = w.pick(
        ("reads", "read", "pages"), ("folds", "folded", "boxes"), ("packs", "packed", "parcels"),
        ("types", "typed", "words"), ("walks", "walked", "miles"), ("sews", "sewed", "bags"),
        ("picks", "picked", "apples"), ("paints", "painted", "plates"),
        ("earns", "earned", "dollars"), ("bakes", "baked", "rolls"),
        ("solves", "solved", "puzzles"), ("saves", "saved", "dollars"),
    )  # fmt: skip
    unit, units = w.pick(("day", "days"), ("hour", "hours"), ("week", "weeks"))
    a, n = w.number(2, 60), w.number(2, 20)
    asked = w.pick("whole", "time", "rate", "left", "two")
    if asked == "whole":
        body = f"{p.name} {does} {a} {things} {w.pick('each', 'every', 'a')} {unit}."
        question = f"How many {things} does {p.he} {_plain(does)} in {n} {units}?"
        lines: tuple[str, ...] = (f"In {n} {units} that is {mark(f'{n} * {a}', n * a)} {things}.",)
        return StoryText("rate", body, question, lines, n * a)
    if asked == "time":
        body = f"{p.name} {does} {a} {things} a {unit}."
        question = f"In how many {units} does {p.he} {_plain(does)} {n * a} {things}?"
        lines = (f"That takes {mark(f'{n * a} / {a}', n)} {units}.",)
        return StoryText("rate", body, question, lines, n)
    if asked == "rate":
        body = f"{p.name} {did} {n * a} {things} in {n} {units}, the same number each {unit}."
        question = f"How many {things} did {p.he} {_plain(does)} each {unit}?"
        lines = (f"Each {unit} it was {mark(f'{n * a} / {n}', a)} {things}.",)
        return StoryText("rate", body, question, lines, a)
    if asked == "left":
        goal = n * a + w.number(2, 80)
        body = (
            f"{p.name} wants to {_plain(does)} {goal} {things}. "
            f"So far {p.he} {did} {a} a {unit} for {n} {units}."
        )
        question = f"How many {things} are left?"
        lines = (
            f"So far it was {mark(f'{n} * {a}', n * a)} {things}.",
            f"There are {mark(f'{goal} - {n * a}', goal - n * a)} {things} left.",
        )
        return StoryText("rate twice", body, question, lines, goal - n * a)
    b = w.number(2, 60)
    body = f"Each {unit} {p.name} {does} {a} {things} in the morning and {b} in the evening."
    question = f"How many {things} is that in {n} {units}?"
    lines = (
        f"Each {unit} that is {mark(f'{a} + {b}', a + b)} {things}.",
        f"In {n} {units} that is {mark(f'{n} * {a + b}', n * (a + b))} {things}.",
    )
    return StoryText("rate twice", body, question, lines, n * (a + b))


def _plain(does: str) -> str:
    return does.removesuffix("s")


def rows(w: Vocabulary) -> StoryText:
    """Rows and seats; the question is the total, the rows or the free seats."""
    place, things = w.pick(
        ("hall", "seats"), ("theatre", "seats"), ("field", "plants"), ("bus", "seats")
    )
    n, each = w.number(3, 30), w.number(2, 30)
    whole = n * each
    asked = w.pick("whole", "rows", "free")
    if asked == "rows":
        body = f"A {place} has {whole} {things} in rows of {each}."
        question = "How many rows are there?"
        lines = (f"There are {mark(f'{whole} / {each}', n)} rows.",)
        return StoryText("groups", body, question, lines, n)
    body = f"A {place} has {n} rows of {each} {things}."
    first = f"There are {mark(f'{n} * {each}', whole)} {things}."
    if asked == "whole" or whole < 5:
        question = f"How many {things} are there in the {place}?"
        return StoryText("groups", body, question, (first,), whole)
    used = w.number(2, whole - 2)
    state = "in bloom" if things == "plants" else "taken"
    question = f"{used} {things} are {state}. How many are not?"
    second = f"{mark(f'{whole} - {used}', whole - used)} {things} are not {state}."
    return StoryText("groups twice", body, question, (first, second), whole - used)


SCHEMES = (packs, packs_of_two, shares, prices, buys, times, rates, rows)
