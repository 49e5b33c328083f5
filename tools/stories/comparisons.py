"""Stories that combine, compare or equalize amounts: schemes of Riley, Greeno and Heller (1983)."""

from tools.stories.words import StoryText, Vocabulary, larger_first, mark


def together(w: Vocabulary) -> StoryText:
    """Parts and a whole, with an irrelevant number; the question is the whole or a part."""
    (one, two) = w.pair()
    place = w.pick("in the shop", "on the farm", "in the cupboard", "in the hall", "at the fair")
    a, b, other = w.amount(), w.amount(), w.amount()
    idle = (
        f" {w.pick('It', 'The place')} is open for {other} hours a week." if w.chance(0.4) else ""
    )
    if w.chance(0.5):
        body = f"There are {a} {one} and {b} {two} {place}.{idle}"
        question = f"How many {one} and {two} are there {w.pick('in all', 'altogether')}?"
        lines: tuple[str, ...] = (f"There are {mark(f'{a} + {b}', a + b)} {one} and {two}.",)
        return StoryText("combine", body, question, lines, a + b)
    body = f"There are {a + b} {one} and {two} {place}. {a} of them are {one}.{idle}"
    question = f"How many {two} are there?"
    lines = (f"There are {mark(f'{a + b} - {a}', b)} {two}.",)
    return StoryText("combine", body, question, lines, b)


def compares(w: Vocabulary) -> StoryText:
    """Two people and a difference; the question is the difference, one amount or the sum."""
    (p, q), things = w.people(2), w.things()
    b = w.amount()
    more = w.number(2, max(3, b))
    a = b + more
    asked = w.pick("difference", "larger", "smaller", "smaller by more", "both")
    if asked == "difference":
        body = w.shuffled([f"{p.name} has {a} {things}.", f"{q.name} has {b} {things}."])
        question = w.pick(
            f"How many more {things} does {p.name} have than {q.name}?",
            f"How many fewer {things} does {q.name} have than {p.name}?",
        )
        lines: tuple[str, ...] = (f"The difference is {mark(f'{a} - {b}', more)} {things}.",)
        return StoryText("compare", body, question, lines, more)
    if asked == "larger":
        body = w.pick(
            f"{q.name} has {b} {things}. {p.name} has {more} more {things} than {q.name}.",
            f"{q.name} has {more} fewer {things} than {p.name}. {q.name} has {b} {things}.",
        )
        question = f"How many {things} does {p.name} have?"
        lines = (f"{p.name} has {mark(f'{b} + {more}', a)} {things}.",)
        return StoryText("compare", body, question, lines, a)
    if asked == "both":
        body = f"{q.name} has {b} {things}. {p.name} has {more} more than {q.name}."
        question = f"How many {things} do they have together?"
        lines = (
            f"{p.name} has {mark(f'{b} + {more}', a)} {things}.",
            f"Together they have {mark(f'{a} + {b}', a + b)} {things}.",
        )
        return StoryText("compare twice", body, question, lines, a + b)
    if asked == "smaller":
        body = f"{p.name} has {a} {things}. {q.name} has {more} fewer {things} than {p.name}."
    else:
        body = f"{p.name} has {a} {things}, which is {more} more than {q.name} has."
    question = f"How many {things} does {q.name} have?"
    lines = (f"{q.name} has {mark(f'{a} - {more}', b)} {things}.",)
    return StoryText("compare", body, question, lines, b)


def needs(w: Vocabulary) -> StoryText:
    """Missing amounts of two things; the question is one, both or their difference."""
    (p,), (one, two) = w.people(), w.pair()
    b, d = w.amount(), w.amount()
    a, c = w.larger(b), w.larger(d)
    purpose = w.pick("a party", "a fair", "the class", "a club", "a feast")
    body = (
        f"{p.name} needs {a} {one} and {c} {two} for {purpose}. "
        f"{p.He} already has {b} {one} and {d} {two}."
    )
    asked = w.pick("one", "two", "both", "apart")
    if asked == "one":
        question = f"How many more {one} does {p.he} need?"
        lines: tuple[str, ...] = (f"{p.He} needs {mark(f'{a} - {b}', a - b)} more {one}.",)
        return StoryText("equalise", body, question, lines, a - b)
    if asked == "two":
        question = f"How many more {two} must {p.name} get?"
        lines = (f"{p.He} must get {mark(f'{c} - {d}', c - d)} more {two}.",)
        return StoryText("equalise", body, question, lines, c - d)
    if asked == "both":
        question = f"How many {one} and {two} does {p.he} still need?"
        lines = (
            f"{p.He} needs {mark(f'{a} - {b}', a - b)} more {one}.",
            f"{p.He} needs {mark(f'{c} - {d}', c - d)} more {two}.",
            f"Together that is {mark(f'{a - b} + {c - d}', a - b + c - d)}.",
        )
        return StoryText("equalise twice", body, question, lines, a - b + c - d)
    if a == c:
        question = f"How many {one} and {two} are needed in all?"
        lines = (f"Needed are {mark(f'{a} + {c}', a + c)} of them.",)
        return StoryText("combine", body, question, lines, a + c)
    (most, more), (least, less) = larger_first((a, one), (c, two))
    question = f"How many more {more} than {less} does {p.name} need for {purpose} in all?"
    lines = (f"{mark(f'{most} - {least}', most - least)} more {more} than {less} are needed.",)
    return StoryText("compare", body, question, lines, most - least)


SCHEMES = (together, compares, needs)
