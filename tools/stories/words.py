"""Random names, things and numbers for stories."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Person:
    """A person in a story, with pronouns."""

    name: str
    he: str
    his: str

    @property
    def He(self) -> str:
        """The capitalized pronoun."""
        return self.he.capitalize()


@dataclass(frozen=True, slots=True)
class StoryText:
    """A story, its question and its solution."""

    kind: str
    """The scheme, followed by "twice" if it needs several calculations."""
    body: str
    question: str
    lines: tuple[str, ...]
    """The lines of the solution, with calculations marked as in GSM8K."""
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


class Vocabulary:
    """Draws names, things and numbers with a random generator."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, *options: T) -> T:
        """A random option."""
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
        """A kind of thing, in the plural."""
        return self._rng.choice(self._rng.choice((_THINGS, _FOOD)))

    def food(self) -> str:
        """A kind of food, in the plural."""
        return self._rng.choice(_FOOD)

    def pair(self) -> tuple[str, str]:
        """Two kinds of things that can be counted together, in random order."""
        if self._rng.random() < 0.6:
            return self._random_order(self._rng.choice(_PAIRS))
        thing = self.things()
        first, second = self._random_order(self._rng.choice(_KINDS))
        return f"{first} {thing}", f"{second} {thing}"

    def box(self) -> tuple[str, str]:
        """A container, in the singular and the plural."""
        return self._rng.choice(_BOXES)

    def sold(self, count: int = 1) -> list[tuple[str, str]]:
        """Different things for sale, in the singular and the plural."""
        return self._rng.sample(_SOLD, count)

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`."""
        return self._rng.randint(low, high)

    def amount(self, low: int = 2) -> int:
        """A number of at least `low`: usually small, sometimes several hundred."""
        return self._rng.randint(low, self._rng.choice((20, 60, 100, 400)) + low)

    def larger(self, number: int) -> int:
        """A number that is larger than `number`, by about its size at most."""
        return number + self._rng.randint(2, max(6, number))

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._rng.random() < probability

    def shuffled(self, sentences: Sequence[str]) -> str:
        """The sentences in random order, as one text."""
        return " ".join(self._rng.sample(sentences, len(sentences)))

    def _random_order(self, pair: tuple[str, str]) -> tuple[str, str]:
        return pair if self._rng.random() < 0.5 else (pair[1], pair[0])


def mark(calculation: str, value: int) -> str:
    """A calculation in the notation of GSM8K: `12 - 5 = <<12-5=7>>7`."""
    return f"{calculation} = <<{calculation.replace(' ', '')}={value}>>{value}"


def larger_first(one: tuple[int, str], two: tuple[int, str]) -> list[tuple[int, str]]:
    """Two pairs of (number, kind), the larger number first."""
    return sorted((one, two), reverse=True)
