"""The words that stories are told with, drawn by a seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody in a story, with the words that stand for them."""

    name: str
    he: str
    his: str

    @property
    def He(self) -> str:
        """The pronoun at the beginning of a sentence."""
        return self.he.capitalize()


@dataclass(frozen=True, slots=True)
class Told:
    """A story with a question and its solution."""

    kind: str
    body: str
    question: str
    lines: tuple[str, ...]
    """The solution, calculations marked as in GSM8K."""
    answer: int


_SHE = (
    "Alma", "Bea", "Carla", "Dora", "Elena", "Fatima", "Greta", "Hana", "Iris", "Joyce", "Kira",
    "Lena", "Mona", "Nadia", "Olga", "Priya", "Rita", "Sonia", "Tara", "Uma", "Vera", "Wendy",
    "Yara", "Zoe", "Amy", "Nina",
)  # fmt: skip
_HE = (
    "Aaron", "Boris", "Carlos", "Dan", "Emil", "Felix", "George", "Hassan", "Ivan", "Jonas",
    "Karim", "Leo", "Marco", "Noah", "Oscar", "Pavel", "Ravi", "Simon", "Theo", "Victor", "Walid",
    "Yusuf", "Adam", "Ben", "Louis", "Max",
)  # fmt: skip
_KINDS = (
    ("red", "blue"), ("green", "yellow"), ("large", "small"), ("old", "new"), ("round", "square"),
    ("black", "white"), ("plain", "striped"), ("wooden", "plastic"),
)  # fmt: skip
_THINGS = (
    "marbles", "stickers", "books", "pencils", "cards", "stamps", "coins", "shells", "buttons",
    "beads", "balloons", "ribbons", "crayons", "toys", "pens", "badges", "magnets", "postcards",
    "photos", "bracelets", "erasers", "kites", "puzzles", "notebooks", "figurines", "bottles",
    "candles", "cups", "plates", "keys",
)  # fmt: skip
_FOOD = (
    "apples", "pears", "plums", "cookies", "muffins", "oranges", "lemons", "cherries", "peaches",
    "carrots", "onions", "sandwiches", "pancakes", "candies", "doughnuts", "eggs", "tomatoes",
    "cupcakes", "pretzels", "grapes", "mangoes", "figs", "bagels", "tarts", "rolls",
)  # fmt: skip
_PAIRS = (
    ("pens", "rulers"), ("forks", "spoons"), ("chairs", "tables"), ("roses", "tulips"),
    ("apples", "bananas"), ("cows", "sheep"), ("ducks", "geese"), ("shirts", "socks"),
    ("novels", "comics"), ("pies", "cakes"), ("cups", "plates"), ("hats", "scarves"),
    ("letters", "parcels"), ("cars", "trucks"), ("carrots", "potatoes"), ("oranges", "lemons"),
    ("drums", "flutes"), ("maps", "posters"), ("cats", "dogs"), ("balls", "ropes"),
)  # fmt: skip
_BOXES = (
    ("box", "boxes"), ("bag", "bags"), ("basket", "baskets"), ("jar", "jars"), ("shelf", "shelves"),
    ("crate", "crates"), ("tray", "trays"), ("drawer", "drawers"), ("packet", "packets"),
    ("tin", "tins"),
)  # fmt: skip
_SOLD = (
    ("ticket", "tickets"), ("mug", "mugs"), ("lamp", "lamps"), ("cap", "caps"), ("ball", "balls"),
    ("belt", "belts"), ("poster", "posters"), ("clock", "clocks"), ("plant", "plants"),
    ("pillow", "pillows"), ("vase", "vases"), ("brush", "brushes"), ("blanket", "blankets"),
    ("game", "games"), ("rug", "rugs"), ("chair", "chairs"),
)  # fmt: skip


class Words:
    """Draws names, things and numbers; the same seed draws the same."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, *options: T) -> T:
        """One of the options."""
        return self._rng.choice(options)

    def people(self, count: int = 1) -> list[Person]:
        """Different people."""
        found: dict[str, Person] = {}
        while len(found) < count:
            if self._rng.random() < 0.5:
                person = Person(self._rng.choice(_SHE), "she", "her")
            else:
                person = Person(self._rng.choice(_HE), "he", "his")
            found[person.name] = person
        return list(found.values())

    def things(self) -> str:
        """What somebody may have, in the plural."""
        return self._rng.choice(self._rng.choice((_THINGS, _FOOD)))

    def food(self) -> str:
        """Something to eat, in the plural."""
        return self._rng.choice(_FOOD)

    def pair(self) -> tuple[str, str]:
        """Two sorts of things that may be counted together, in either order."""
        if self._rng.random() < 0.6:
            return self._either(self._rng.choice(_PAIRS))
        thing = self.things()
        first, second = self._either(self._rng.choice(_KINDS))
        return f"{first} {thing}", f"{second} {thing}"

    def box(self) -> tuple[str, str]:
        """What things may be put into, in the singular and the plural."""
        return self._rng.choice(_BOXES)

    def sold(self, count: int = 1) -> list[tuple[str, str]]:
        """Different things with a price, in the singular and the plural."""
        return self._rng.sample(_SOLD, count)

    def number(self, low: int, high: int) -> int:
        """A whole number."""
        return self._rng.randint(low, high)

    def amount(self, low: int = 2) -> int:
        """A number as stories have them: mostly small, now and then some hundreds."""
        return self._rng.randint(low, self._rng.choice((20, 60, 100, 400)) + low)

    def larger(self, least: int) -> int:
        """A number above `least`, of its size."""
        return least + self._rng.randint(2, max(6, least))

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return self._rng.random() < share

    def mixed(self, sentences: Sequence[str]) -> str:
        """Sentences in any order, as one text."""
        return " ".join(self._rng.sample(sentences, len(sentences)))

    def _either(self, pair: tuple[str, str]) -> tuple[str, str]:
        return pair if self._rng.random() < 0.5 else (pair[1], pair[0])


def mark(calculation: str, value: int) -> str:
    """A calculation with its mark: `12 - 5 = <<12-5=7>>7`."""
    return f"{calculation} = <<{calculation.replace(' ', '')}={value}>>{value}"


def ranked(one: tuple[int, str], two: tuple[int, str]) -> list[tuple[int, str]]:
    """Two counted sorts, the larger first."""
    return sorted((one, two), reverse=True)
