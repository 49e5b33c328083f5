"""Stories of earning, spending, saving and selling, with one to five calculations."""

from tools.stories.words import StoryText, Vocabulary, mark


def wages(w: Vocabulary) -> StoryText:
    """Wages for hours on several days, in part spent."""
    (p,) = w.people()
    wage, hours, days = w.number(5, 30), w.number(2, 9), w.number(2, 6)
    job = w.pick("babysitting", "mowing lawns", "in a bakery", "at a farm", "teaching piano")
    body = f"{p.name} earns {wage} dollars an hour {job}. {p.He} works {hours} hours a day."
    day, week = wage * hours, wage * hours * days
    first = f"A day brings {mark(f'{wage} * {hours}', day)} dollars."
    asked = w.pick("day", "days", "left", "goal")
    if asked == "day":
        question = f"How many dollars does {p.he} earn {w.pick('in a day', 'each day')}?"
        return StoryText("rate", body, question, (first,), day)
    second = f"In {days} days it is {mark(f'{day} * {days}', week)} dollars."
    if asked == "days":
        question = f"How many dollars does {p.he} earn in {days} days?"
        return StoryText("rate twice", body, question, (first, second), week)
    if asked == "left":
        spent = w.number(2, week - 2)
        question = f"Then {p.he} spends {spent} dollars. How many are left after {days} days?"
        third = f"Left are {mark(f'{week} - {spent}', week - spent)} dollars."
        return StoryText("rate twice", body, question, (first, second, third), week - spent)
    question = f"In how many days does {p.he} earn {week} dollars?"
    last = f"That takes {mark(f'{week} / {day}', days)} days."
    return StoryText("rate twice", body, question, (first, last), days)


def farm(w: Vocabulary) -> StoryText:
    """Things made each day; some are kept and the others sold."""
    (p,) = w.people()
    made, keep, price = w.number(8, 40), w.number(2, 6), w.number(2, 9)
    days = w.number(2, 9)
    thing, verb = w.pick(
        ("eggs", "collects"), ("loaves", "bakes"), ("candles", "makes"), ("melons", "picks"),
        ("baskets", "weaves"), ("cheeses", "makes"), ("pies", "bakes"), ("fish", "catches"),
    )  # fmt: skip
    body = (
        f"Every day {p.name} {verb} {made} {thing}. {p.He} keeps {keep} of them and sells the "
        f"others for {price} dollars each."
    )
    sold = made - keep
    money = sold * price
    lines: tuple[str, ...] = (f"{p.name} sells {mark(f'{made} - {keep}', sold)} {thing} a day.",)
    asked = w.pick("sold", "money", "days", "days")
    if asked == "sold":
        return StoryText(
            "change", body, f"How many {thing} does {p.he} sell each day?", lines, sold
        )
    lines += (f"That brings {mark(f'{sold} * {price}', money)} dollars a day.",)
    if asked == "money":
        question = f"How many dollars does {p.he} make {w.pick('every day', 'in a day')}?"
        return StoryText("rate twice", body, question, lines, money)
    question = f"How many dollars does {p.he} make in {days} days?"
    lines += (f"In {days} days that is {mark(f'{money} * {days}', money * days)} dollars.",)
    return StoryText("rate twice", body, question, lines, money * days)


def profit(w: Vocabulary) -> StoryText:
    """Things bought and sold at two prices, with additional costs."""
    (p,), ((one, ones),) = w.people(), w.sold()
    n, cost, gain, rent = w.number(3, 20), w.number(2, 20), w.number(2, 15), w.number(2, 30)
    price = cost + gain
    body = (
        f"{p.name} buys {n} {ones} for {cost} dollars each and sells them for {price} dollars each."
    )
    first = f"On each {one} {p.name} makes {mark(f'{price} - {cost}', gain)} dollars."
    second = f"On all of them {p.he} makes {mark(f'{n} * {gain}', n * gain)} dollars."
    asked = w.pick("each", "all", "rent")
    if asked == "each":
        question = f"How many dollars does {p.he} make on each {one}?"
        return StoryText("price", body, question, (first,), gain)
    if asked == "all" or n * gain <= rent:
        question = f"How many dollars does {p.he} make {w.pick('in all', 'on all of them')}?"
        return StoryText("price twice", body, question, (first, second), n * gain)
    body += f" {p.He} also pays {rent} dollars for the stall."
    question = f"What is {p.his} profit in dollars?"
    third = f"After the stall {mark(f'{n * gain} - {rent}', n * gain - rent)} dollars are left."
    return StoryText("price twice", body, question, (first, second, third), n * gain - rent)


def saving(w: Vocabulary) -> StoryText:
    """Saving for a purchase."""
    (p,), ((one, _),) = w.people(), w.sold()
    each, weeks, have = w.number(3, 30), w.number(2, 15), w.number(4, 60)
    goal = have + each * weeks
    asked = w.pick("weeks", "after", "wanting", "each")
    if asked == "weeks":
        body = f"A {one} costs {goal} dollars. {p.name} has {have} dollars and saves {each} a week."
        question = f"In how many weeks can {p.he} buy it?"
        lines: tuple[str, ...] = (
            f"{p.name} needs {mark(f'{goal} - {have}', goal - have)} more dollars.",
            f"That takes {mark(f'{goal - have} / {each}', weeks)} weeks.",
        )
        return StoryText("rate twice", body, question, lines, weeks)
    saved = each * weeks
    if asked == "each":
        body = f"{p.name} has {have} dollars and wants {goal} dollars in {weeks} weeks."
        question = f"How many dollars must {p.he} save each week?"
        lines = (
            f"{p.name} needs {mark(f'{goal} - {have}', saved)} more dollars.",
            f"Each week that is {mark(f'{saved} / {weeks}', each)} dollars.",
        )
        return StoryText("rate twice", body, question, lines, each)
    body = f"{p.name} had {have} dollars and saved {each} dollars a week for {weeks} weeks."
    first = f"{p.He} saved {mark(f'{each} * {weeks}', saved)} dollars."
    second = f"Then {p.he} had {mark(f'{have} + {saved}', goal)} dollars."
    if asked == "after":
        return StoryText(
            "rate twice", body, f"How many dollars did {p.he} have then?", (first, second), goal
        )
    price = goal + w.number(3, 50)
    question = f"How many more dollars does a {one} for {price} dollars need?"
    third = f"Needed are {mark(f'{price} - {goal}', price - goal)} dollars."
    return StoryText("rate twice", body, question, (first, second, third), price - goal)


def shopping(w: Vocabulary) -> StoryText:
    """A bill with three kinds of things."""
    (p,), kinds = w.people(), w.sold(3)
    counts, costs = [w.number(2, 6) for _ in kinds], [w.number(2, 15) for _ in kinds]
    parts = [
        f"{n} {many} at {c} dollars each"
        for n, c, (_, many) in zip(counts, costs, kinds, strict=True)
    ]
    body = f"{p.name} {w.pick('bought', 'buys', 'ordered')} {parts[0]}, {parts[1]} and {parts[2]}."
    sums = [n * c for n, c in zip(counts, costs, strict=True)]
    lines = [
        f"The {many} cost {mark(f'{n} * {c}', n * c)} dollars."
        for n, c, (_, many) in zip(counts, costs, kinds, strict=True)
    ]
    total = sum(sums)
    lines.append(f"Together that is {mark(' + '.join(map(str, sums)), total)} dollars.")
    if w.chance(0.5):
        question = f"How many dollars is that {w.pick('in all', 'altogether')}?"
        return StoryText("price twice", body, question, tuple(lines), total)
    paid = total + w.number(2, 40)
    question = f"How many dollars does {p.he} get back from {paid} dollars?"
    lines.append(f"{p.He} gets back {mark(f'{paid} - {total}', paid - total)} dollars.")
    return StoryText("price twice", body, question, tuple(lines), paid - total)


SCHEMES = (wages, farm, profit, saving, shopping)
