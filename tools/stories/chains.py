"""Stories with chained relations: comparisons in a row, ages, averages."""

from tools.stories.words import StoryText, Vocabulary, mark

_TIMES = {2: "twice", 3: "three times", 4: "four times", 5: "five times"}


def three_people(w: Vocabulary) -> StoryText:
    """Three people with relative amounts; the question is the last amount or the sum."""
    (p, q, r), things = w.people(3), w.things()
    a, more, k = w.number(2, 40), w.number(2, 20), w.number(2, 5)
    b = a + more
    c = b * k
    body = w.shuffled(
        [
            f"{p.name} has {a} {things}.",
            f"{q.name} has {more} more {things} than {p.name}.",
            f"{r.name} has {_TIMES[k]} as many {things} as {q.name}.",
        ]
    )
    lines = (
        f"{q.name} has {mark(f'{a} + {more}', b)} {things}.",
        f"{r.name} has {mark(f'{b} * {k}', c)} {things}.",
    )
    if w.chance(0.5):
        question = f"How many {things} does {r.name} have?"
        return StoryText("compare twice", body, question, lines, c)
    question = (
        f"How many {things} do {w.pick('they', 'the three')} have {w.pick('together', 'in all')}?"
    )
    last = f"Together they have {mark(f'{a} + {b} + {c}', a + b + c)} {things}."
    return StoryText("compare twice", body, question, (*lines, last), a + b + c)


def fewer_then_times(w: Vocabulary) -> StoryText:
    """A multiple, followed by a difference."""
    (p, q, r), things = w.people(3), w.things()
    a, k = w.number(4, 30), w.number(2, 5)
    b = a * k
    less = w.number(2, b - 2)
    c = b - less
    did = w.pick("has", "found", "picked", "sold", "made", "bought")
    body = (
        f"{p.name} {did} {a} {things}. {q.name} {did} {_TIMES[k]} as many as {p.name}. "
        f"{r.name} {did} {less} fewer than {q.name}."
    )
    lines = (
        f"{q.name} {did} {mark(f'{a} * {k}', b)} {things}.",
        f"{r.name} {did} {mark(f'{b} - {less}', c)} {things}.",
    )
    asked = w.pick("last", "sum", "two")
    if asked == "last":
        return StoryText("compare twice", body, f"How many {things} are {r.name}'s?", lines, c)
    if asked == "two":
        question = f"How many {things} are {p.name}'s and {r.name}'s together?"
        last = f"Together these are {mark(f'{a} + {c}', a + c)} {things}."
        return StoryText("compare twice", body, question, (*lines, last), a + c)
    question = f"How many {things} is that for all three?"
    last = f"For all three it is {mark(f'{a} + {b} + {c}', a + b + c)} {things}."
    return StoryText("compare twice", body, question, (*lines, last), a + b + c)


def ages(w: Vocabulary) -> StoryText:
    """Ages now, earlier and later."""
    p, q = w.people(2)
    a, gap, years = w.number(4, 40), w.number(2, 30), w.number(2, 20)
    b = a + gap
    asked = w.pick("other", "later", "other later", "sum", "ago")
    body = w.pick(
        f"{p.name} is {a} years old. {q.name} is {gap} years older.",
        f"{p.name} is {gap} years younger than {q.name}. {p.name} is {a}.",
    )
    first = f"{q.name} is {mark(f'{a} + {gap}', b)} years old."
    if asked == "other":
        return StoryText("age", body, f"How old is {q.name}?", (first,), b)
    if asked == "later":
        question = f"How old will {p.name} be in {years} years?"
        lines = (f"In {years} years {p.name} will be {mark(f'{a} + {years}', a + years)}.",)
        return StoryText("age", body, question, lines, a + years)
    if asked == "sum":
        question = "How old are they together?"
        last = f"Together they are {mark(f'{a} + {b}', a + b)} years old."
        return StoryText("age twice", body, question, (first, last), a + b)
    if asked == "ago":
        before = w.number(2, a - 2)
        question = f"How old was {q.name} {before} years ago?"
        last = f"{before} years ago {q.name} was {mark(f'{b} - {before}', b - before)}."
        return StoryText("age twice", body, question, (first, last), b - before)
    question = f"How old will {q.name} be in {years} years?"
    last = f"In {years} years {q.name} will be {mark(f'{b} + {years}', b + years)}."
    return StoryText("age twice", body, question, (first, last), b + years)


def averages(w: Vocabulary) -> StoryText:
    """The mean of three or four numbers, or the amount missing to a goal."""
    (p,) = w.people()
    count = w.pick(3, 4)
    mean = w.number(6, 60)
    shifts = [w.number(-5, 5) for _ in range(count - 1)]
    shifts.append(-sum(shifts))
    values = [mean + shift for shift in shifts]
    if min(values) < 1:
        values = [mean] * count
    what, unit = w.pick(
        ("points in each game", "points"), ("pages on each day", "pages"),
        ("miles on each trip", "miles"), ("dollars in each week", "dollars"),
    )  # fmt: skip
    verb = {"points": "scored", "pages": "read", "miles": "rode", "dollars": "saved"}[unit]
    total = sum(values)
    listed = ", ".join(map(str, values[:-1])) + f" and {values[-1]}"
    plus = " + ".join(map(str, values))
    body = f"{p.name} {verb} {listed} {unit}."
    first = f"The sum is {mark(plus, total)} {unit}."
    if w.chance(0.6):
        question = f"How many {what} is that on average?"
        last = f"The average is {mark(f'{total} / {count}', mean)} {unit}."
        return StoryText("average twice", body, question, (first, last), mean)
    goal = total + w.number(3, 30)
    question = f"How many more {unit} are needed for {goal}?"
    last = f"Needed are {mark(f'{goal} - {total}', goal - total)} more {unit}."
    return StoryText("combine twice", body, question, (first, last), goal - total)


def backwards(w: Vocabulary) -> StoryText:
    """Two changes of different kinds; the end is known and the question is the beginning."""
    (p,), things = w.people(), w.things()
    k, left, gone = w.number(2, 5), w.number(3, 30), w.number(2, 30)
    if w.chance(0.5):
        body = (
            f"{p.name} gave away {gone} {things} and then put the rest into {k} equal piles of "
            f"{left}."
        )
        question = f"How many {things} did {p.he} have {w.pick('at first', 'in the beginning')}?"
        lines: tuple[str, ...] = (
            f"In the piles are {mark(f'{k} * {left}', k * left)} {things}.",
            f"At first there were {mark(f'{k * left} + {gone}', k * left + gone)} {things}.",
        )
        return StoryText("groups twice", body, question, lines, k * left + gone)
    start = k * left
    body = (
        f"{p.name} shared some {things} equally with {k - 1} friends, so that all {k} had as "
        f"many. Then {p.he} found {gone} more and had {left + gone}."
    )
    question = f"How many {things} were shared?"
    lines = (
        f"Before the last find {p.name} had {mark(f'{left + gone} - {gone}', left)} {things}.",
        f"Shared were {mark(f'{left} * {k}', start)} {things}.",
    )
    return StoryText("groups twice", body, question, lines, start)


SCHEMES = (three_people, fewer_then_times, ages, averages, backwards)
