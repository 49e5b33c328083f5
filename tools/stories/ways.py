"""Stories of trips, times, recipes and groups: rates and nested groups, with two to four
calculations."""

from tools.stories.words import StoryText, Vocabulary, larger_first, mark


def journeys(w: Vocabulary) -> StoryText:
    """Distances, speeds and hours."""
    (p,) = w.people()
    speed, hours = w.number(3, 70), w.number(2, 9)
    other, more = w.number(3, 70), w.number(2, 6)
    way, then = speed * hours, other * more
    how = w.pick("drove", "cycled", "travelled", "sailed", "rode")
    first = f"The first part is {mark(f'{speed} * {hours}', way)} miles."
    asked = w.pick("one", "two", "time", "back")
    if asked == "one":
        body = f"{p.name} {how} for {hours} hours at {speed} miles an hour."
        return StoryText(
            "rate",
            body,
            "How many miles is that?",
            (f"That is {mark(f'{speed} * {hours}', way)} miles.",),
            way,
        )
    if asked == "time":
        body = f"{p.name} {how} {way} miles at {speed} miles an hour."
        question = "How many hours did that take?"
        return StoryText(
            "rate", body, question, (f"It took {mark(f'{way} / {speed}', hours)} hours.",), hours
        )
    if asked == "back":
        body = (
            f"{p.name} lives {speed} miles from work and goes there and back {hours} days a week."
        )
        lines: tuple[str, ...] = (
            f"There and back is {mark(f'{speed} * 2', speed * 2)} miles.",
            f"In a week that is {mark(f'{speed * 2} * {hours}', way * 2)} miles.",
        )
        return StoryText(
            "rate twice", body, f"How many miles does {p.he} go in a week?", lines, way * 2
        )
    body = (
        f"{p.name} {how} for {hours} hours at {speed} miles an hour and then for {more} hours at "
        f"{other} miles an hour."
    )
    lines = (
        first,
        f"The second part is {mark(f'{other} * {more}', then)} miles.",
        f"Together that is {mark(f'{way} + {then}', way + then)} miles.",
    )
    return StoryText("rate twice", body, "How many miles were it in all?", lines, way + then)


def minutes(w: Vocabulary) -> StoryText:
    """Durations of several activities."""
    (p,) = w.people()
    a, b, days = w.number(5, 50), w.number(5, 50), w.number(2, 7)
    one, two = w.pick(
        ("reading", "drawing"), ("running", "swimming"), ("cooking", "cleaning"),
        ("singing", "dancing"), ("spelling", "sums"), ("gardening", "painting"),
    )  # fmt: skip
    body = (
        f"{p.name} spends {a} minutes {w.pick('a', 'every')} day on {one} and {b} minutes on {two}."
    )
    asked = w.pick("day", "days", "difference", "hours")
    if asked == "difference" and a != b:
        (most, more), (least, less) = larger_first((a, one), (b, two))
        question = (
            f"How many more minutes does {p.he} spend on {more} than on {less} in {days} days?"
        )
        lines: tuple[str, ...] = (
            f"Each day it is {mark(f'{most} - {least}', most - least)} minutes more.",
            f"In {days} days it is {mark(f'{most - least} * {days}', (most - least) * days)}.",
        )
        return StoryText("rate twice", body, question, lines, (most - least) * days)
    first = f"Each day that is {mark(f'{a} + {b}', a + b)} minutes."
    if asked == "day":
        return StoryText("combine", body, "How many minutes is that a day?", (first,), a + b)
    if asked == "hours":
        hours = w.number(2, 9)
        lines = (f"{hours} hours have {mark(f'{hours} * 60', hours * 60)} minutes.",)
        body = f"{p.name} {w.pick('slept', 'worked', 'practised', 'waited')} for {hours} hours."
        return StoryText("rate", body, "How many minutes is that?", lines, hours * 60)
    question = f"How many minutes is that in {days} days?"
    last = f"In {days} days it is {mark(f'{a + b} * {days}', (a + b) * days)} minutes."
    return StoryText("rate twice", body, question, (first, last), (a + b) * days)


def recipes(w: Vocabulary) -> StoryText:
    """A recipe that is scaled to more people."""
    (p,), (one, two) = (
        w.people(),
        w.pick(
            ("eggs", "cups of flour"),
            ("spoons of sugar", "apples"),
            ("cups of rice", "onions"),
            ("carrots", "potatoes"),
        ),
    )
    a, b, k = w.number(2, 9), w.number(2, 9), w.number(2, 8)
    dish = w.pick("cake", "soup", "pie", "stew", "loaf")
    body = f"For one {dish} {p.name} needs {a} {one} and {b} {two}."
    asked = w.pick("one", "all", "have", "from")
    if asked == "from":
        question = (
            f"How many of these can {p.he} make from {a * k} {one} if there are enough {two}?"
        )
        lines: tuple[str, ...] = (f"It is enough for {mark(f'{a * k} / {a}', k)}.",)
        return StoryText("groups", body, question, lines, k)
    first = f"For {k} {p.he} needs {mark(f'{a} * {k}', a * k)} {one}."
    if asked == "one":
        return StoryText(
            "groups", body, f"How many {one} does {p.he} need for {k} of them?", (first,), a * k
        )
    if asked == "have" and a * k > 3:
        have = w.number(1, a * k - 1)
        question = f"{p.He} has {have} {one}. How many more {one} does {p.he} need for {k} of them?"
        last = f"{p.He} needs {mark(f'{a * k} - {have}', a * k - have)} more."
        return StoryText("groups twice", body, question, (first, last), a * k - have)
    question = f"How many {one} and {two} together does {p.he} need for {k} of them?"
    lines = (
        f"One needs {mark(f'{a} + {b}', a + b)} of both.",
        f"{k} need {mark(f'{a + b} * {k}', (a + b) * k)}.",
    )
    return StoryText("groups twice", body, question, lines, (a + b) * k)


def boxes_of_boxes(w: Vocabulary) -> StoryText:
    """Groups of groups, of which some are removed or shared."""
    (p,), things = w.people(), w.things()
    a, b, c = w.number(2, 8), w.number(2, 9), w.number(2, 12)
    whole = a * b * c
    body = (
        f"{p.name} has {a} {w.pick('crates', 'cartons')}. In each there are {b} bags with {c} "
        f"{things} in every bag."
    )
    bags = f"There are {mark(f'{a} * {b}', a * b)} bags."
    all_of = f"There are {mark(f'{a * b} * {c}', whole)} {things}."
    asked = w.pick("bags", "all", "gone", "price")
    if asked == "bags":
        return StoryText("groups", body, "How many bags are there?", (bags,), a * b)
    if asked == "all":
        return StoryText(
            "groups twice", body, f"How many {things} are there?", (bags, all_of), whole
        )
    if asked == "gone":
        gone = w.number(2, whole - 2)
        question = f"{p.He} sells {gone} {things}. How many are left?"
        last = f"Left are {mark(f'{whole} - {gone}', whole - gone)} {things}."
        return StoryText("groups twice", body, question, (bags, all_of, last), whole - gone)
    price = w.number(2, 9)
    question = f"A bag costs {price} dollars. How many dollars are all bags worth?"
    last = f"They are worth {mark(f'{a * b} * {price}', a * b * price)} dollars."
    return StoryText("groups twice", body, question, (bags, last), a * b * price)


def crowds(w: Vocabulary) -> StoryText:
    """Groups such as classes, teams and tables, with additional or missing members."""
    group, groups, who = w.pick(
        ("class", "classes", "pupils"), ("team", "teams", "players"), ("table", "tables", "guests"),
        ("boat", "boats", "rowers"), ("bus", "buses", "passengers"), ("tent", "tents", "scouts"),
    )  # fmt: skip
    n, each, extra = w.number(2, 12), w.number(3, 30), w.number(2, 20)
    whole = n * each
    asked = w.pick("more", "away", "needed", "each after")
    if asked == "more":
        body = f"There are {n} {groups} of {each} {who} and {extra} other people."
        lines: tuple[str, ...] = (
            f"In the {groups} are {mark(f'{n} * {each}', whole)} {who}.",
            f"In all there are {mark(f'{whole} + {extra}', whole + extra)} people.",
        )
        return StoryText(
            "groups twice", body, "How many people are there in all?", lines, whole + extra
        )
    if asked == "away":
        away = w.number(2, whole - 2)
        body = f"Each of {n} {groups} has {each} {who}. Today {away} of all {who} are away."
        lines = (
            f"The {groups} have {mark(f'{n} * {each}', whole)} {who}.",
            f"Today there are {mark(f'{whole} - {away}', whole - away)}.",
        )
        return StoryText(
            "groups twice", body, f"How many {who} are there today?", lines, whole - away
        )
    if asked == "needed":
        body = f"{whole - extra if whole > extra + 2 else whole} {who} have come"
        came = whole - extra if whole > extra + 2 else whole
        more = whole - came
        if more == 0:
            lines = (f"They fill {mark(f'{whole} / {each}', n)} {groups}.",)
            return StoryText(
                "groups",
                f"{body}. {each} fit into a {group}.",
                f"How many {groups} do they fill?",
                lines,
                n,
            )
        body += f", and {more} more will come. {each} fit into a {group}."
        lines = (
            f"There will be {mark(f'{came} + {more}', whole)} {who}.",
            f"They fill {mark(f'{whole} / {each}', n)} {groups}.",
        )
        return StoryText("groups twice", body, f"How many {groups} will they fill?", lines, n)
    body = f"{whole + extra} {who} came. {extra} went home and the others made {n} equal {groups}."
    lines = (
        f"There were {mark(f'{whole + extra} - {extra}', whole)} {who} left.",
        f"Each {group} has {mark(f'{whole} / {n}', each)} {who}.",
    )
    return StoryText("groups twice", body, f"How many {who} are in each {group}?", lines, each)


SCHEMES = (journeys, minutes, recipes, boxes_of_boxes, crowds)
