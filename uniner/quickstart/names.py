"""Made-up names for every entity type of the quickstart, in three splits that share no name.

A name consists of invented words (random syllables); titles, dates and amounts follow a grammar. A checksum
decides the split of a word and of a name: both are drawn again until they belong to the wanted split, so no
list of names is stored. Names of "train" and "heldout" have shapes typical of their type ("Borvan Systems",
"zelutrine"). Names of "base", for pretraining the nano base model, have any shape for any type: the base must
find a mention by its context and learns to copy any string.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

SPLITS = ("train", "heldout", "base")

# Half of all strings are for training, a quarter each for the other two.
SPLIT_OF_REMAINDER = ("train", "train", "heldout", "base")

# A grammar that gives no name of the split after this many draws is too small.
MAXIMUM_DRAWS = 10_000

# Single consonants are listed twice, so that most words stay short.
ONSETS = (
    *("b", "c", "d", "f", "g", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w", "y", "z") * 2,
    *("br", "ch", "dr", "fl", "gl", "gr", "kl", "pl", "pr", "qu", "sh", "st", "th", "tr"),
)  # fmt: skip
VOWELS = (*("a", "e", "i", "o", "u") * 4, "ai", "ea", "ou", "y")
CODAS = (*("",) * 4, *("n", "r", "l", "s", "m", "t") * 2, "k", "x", "nd", "rt", "lt", "sk")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

ADJECTIVES = (
    "Silver", "Hollow", "Quiet", "Broken", "Crimson", "Distant", "Gentle", "Frozen", "Golden", "Hidden",
    "Idle", "Jagged", "Lonely", "Midnight", "Narrow", "Open", "Painted", "Restless", "Scarlet",
    "Tender", "Upward", "Velvet", "Wandering", "Yellow", "Amber", "Bitter", "Copper", "Drowsy", "Empty",
    "Fading", "Green", "Humble", "Ivory", "Patient", "Northern", "Second", "Secret", "Slow", "Southern",
    "Wild",
)  # fmt: skip
NOUNS = (
    "Window", "Harbour", "Lantern", "Mirror", "Garden", "Station", "Feather", "Bridge", "Winter",
    "Thunder", "Ladder", "Kingdom", "Letter", "Meadow", "Needle", "Ocean", "Pocket", "Rain", "Shadow",
    "Tower", "Umbrella", "Valley", "Whistle", "Anchor", "Blanket", "Candle", "Desert", "Engine",
    "Forest", "Glass", "Horizon", "Island", "Journey", "Kettle", "Machine", "Orchard", "Promise",
    "River", "Stone", "Summer", "Ticket", "Train", "Voyage", "Wheel", "Morning", "Signal", "Sister",
    "Stranger", "Clock", "Door",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip


def split_of(string: str) -> str:
    """Return the split of a string, ignoring case; the same on every machine."""
    # Shifted: the low bits of checksums of short strings are not uniform.
    return SPLIT_OF_REMAINDER[(zlib.crc32(string.lower().encode()) >> 8) % len(SPLIT_OF_REMAINDER)]


@dataclass(frozen=True)
class Draw:
    """A source of random words of one split."""

    random: Random
    split: str

    def pick(self, options: Sequence[str]) -> str:
        """Return one of the options."""
        return self.random.choice(options)

    def number(self, low: int, high: int) -> int:
        """Return a whole number from `low` to `high`, both included."""
        return self.random.randint(low, high)

    def chance(self, share: float) -> bool:
        """Return True with this probability."""
        return self.random.random() < share

    def core(self, syllables: int = 2) -> str:
        """Return an invented lower-case word of the split, of four letters or more."""
        for _ in range(MAXIMUM_DRAWS):
            parts = [self.pick(ONSETS) + self.pick(VOWELS) for _ in range(syllables)]
            word = "".join(parts) + self.pick(CODAS)
            if len(word) >= 4 and split_of(word) == self.split:
                return word
        raise RuntimeError(f"no word of {syllables} syllables found for the split {self.split}")

    def title(self, syllables: int = 2) -> str:
        """Return an invented capitalised word of the split."""
        return self.core(syllables).capitalize()

    def letters(self, count: int) -> str:
        """Return random capitals."""
        return "".join(self.pick(LETTERS) for _ in range(count))


Shape = Callable[[Draw], str]


def _person(draw: Draw) -> str:
    first = draw.title(1 if draw.chance(0.3) else 2) + draw.pick(("", "", "a", "el", "in"))
    return f"{first} {draw.title()}{draw.pick(('', '', 'ko', 'wick', 'man'))}"


def _company(draw: Draw) -> str:
    endings = ("Systems", "Group", "Holdings", "Industries", "Bank", "Partners", "Motors", "Energy", "Inc")
    return f"{draw.title()} {draw.pick(endings)}" if draw.chance(0.8) else f"{draw.title()}corp"


def _city(draw: Draw) -> str:
    town = draw.title() + draw.pick(("ra", "burg", "ville", "ford", "ton", "", ""))
    return f"{draw.pick(('Port', 'New', 'Upper'))} {town}" if draw.chance(0.15) else town


def _country(draw: Draw) -> str:
    return draw.title() + draw.pick(("ia", "land", "stan", "nia"))


def _date(draw: Draw) -> str:
    day, month, year = draw.number(1, 28), draw.pick(MONTHS), draw.number(1950, 2039)
    return draw.pick((f"{day} {month} {year}", f"{month} {day}, {year}", f"{day} {month} {year}"))


def _amount_of_money(draw: Draw) -> str:
    currency = draw.pick(("dollars", "euros", "crowns"))
    return draw.pick(
        (
            f"${draw.number(2, 990)} million",
            f"${draw.number(1, 99)}.{draw.number(1, 9)} billion",
            f"{draw.number(20, 9900)} {currency}",
            f"{draw.number(2, 900)} million {currency}",
        )
    )


def _percentage(draw: Draw) -> str:
    number = f"{draw.number(1, 98)}.{draw.number(1, 9)}" if draw.chance(0.7) else f"{draw.number(1, 98)}"
    return number + draw.pick((" percent", "%"))


def _code(draw: Draw) -> str:
    return draw.pick(
        (
            f"{draw.letters(3)}{draw.number(1, 99)}",
            f"{draw.letters(2)}-{draw.number(10, 999)}",
            f"{draw.letters(1)}{draw.number(100, 9999)}",
            f"{draw.letters(4)}{draw.number(1, 9)}",
        )
    )


def _phrase(draw: Draw) -> str:
    adjective, (noun, other) = draw.pick(ADJECTIVES), draw.random.sample(NOUNS, 2)
    two_words = (f"{adjective} {noun}", f"{noun} {other}")
    return draw.pick((*two_words, f"The {adjective} {noun}", f"{noun} of {draw.title()}"))


def _with_ending(endings: Sequence[str]) -> Shape:
    """Return a shape: a capitalised invented word and a word typical of the type, such as "Tolva Arena"."""

    def shape(draw: Draw) -> str:
        return f"{draw.title()} {draw.pick(endings)}"

    return shape


def _with_suffix(suffixes: Sequence[str], capital: bool = False) -> Shape:
    """Return a shape: an invented word with a suffix typical of the type, such as "zelutrine"."""

    def shape(draw: Draw) -> str:
        word = draw.core() + draw.pick(suffixes)
        return word.capitalize() if capital else word

    return shape


def _product(draw: Draw) -> str:
    model = draw.pick((f"{draw.number(2, 99)}", f"X{draw.number(1, 9)}", "Pro", "Mini", "Max"))
    return f"{draw.title()} {model}"


def _disease(draw: Draw) -> str:
    return draw.pick(
        (f"{draw.core()}osis", f"{draw.core()}itis", f"{draw.core()} fever", f"{draw.title()} syndrome")
    )


def _protein(draw: Draw) -> str:
    return draw.pick((f"{draw.core()}in", f"{draw.core()}ase", f"{draw.core()}in-{draw.number(1, 9)}"))


def _species(draw: Draw) -> str:
    return f"{draw.title()}us {draw.core()}{draw.pick(('is', 'ensis', 'a', 'um'))}"


def _chemical(draw: Draw) -> str:
    return draw.pick((f"{draw.core()}ate", f"{draw.core()} oxide", f"{draw.core()}anol", f"{draw.core()}ide"))


def _team(draw: Draw) -> str:
    animals = ("Hawks", "Wolves", "Lions", "United", "Rovers", "Bears", "Comets", "Sharks")
    return f"{draw.title()} {draw.pick(animals)}"


def _version(draw: Draw) -> str:
    version = f"{draw.number(0, 30)}.{draw.number(0, 30)}"
    return f"{version}.{draw.number(0, 20)}" if draw.chance(0.7) else version


def _dosage(draw: Draw) -> str:
    return f"{draw.number(1, 1200)} {draw.pick(('mg', 'ml', 'mcg', 'milligrams'))}"


def _programming_language(draw: Draw) -> str:
    return draw.title() + draw.pick(("", "", "Script", "++", "Lang"))


def _spacecraft(draw: Draw) -> str:
    return f"{draw.title()}{draw.pick((' ', '-'))}{draw.number(1, 40)}"


def _dish(draw: Draw) -> str:
    return f"{draw.core()} {draw.pick(('stew', 'soup', 'pie', 'dumplings', 'curry', 'salad', 'noodles'))}"


def _river(draw: Draw) -> str:
    return f"{draw.title()} River" if draw.chance(0.5) else f"River {draw.title()}"


def _mountain(draw: Draw) -> str:
    return f"Mount {draw.title()}" if draw.chance(0.5) else f"{draw.title()} Peak"


def _restaurant(draw: Draw) -> str:
    word = draw.title()
    return draw.pick((f"Chez {word}", f"{word} Grill", f"{word} Kitchen", f"Cafe {word}"))


SHAPES: dict[str, Shape] = {
    "airline": _with_ending(("Airways", "Air", "Wings")),
    "airport": _with_ending(("Airport", "International", "Airfield")),
    "amount of money": _amount_of_money,
    "athlete": _person,
    "chemical": _chemical,
    "city": _city,
    "company": _company,
    "country": _country,
    "court": _with_ending(("District Court", "High Court", "Appeal Court", "Tribunal")),
    "date": _date,
    "disease": _disease,
    "dish": _dish,
    "dosage": _dosage,
    "drug": _with_suffix(("trine", "mab", "olol", "cillin", "zole", "vir")),
    "gene": _code,
    "hospital": _with_ending(("Hospital", "Clinic", "Infirmary", "Medical Centre")),
    "hotel": _with_ending(("Hotel", "Inn", "Lodge", "Palace")),
    "ingredient": _with_suffix(("berry", "nut", "leaf", "root", "seed")),
    "law": _with_ending(("Act", "Code", "Decree", "Statute")),
    "mountain": _mountain,
    "percentage": _percentage,
    "person": _person,
    "planet": _with_suffix(("us", "on", "ar", " b", " c"), capital=True),
    "product": _product,
    "programming language": _programming_language,
    "protein": _protein,
    "restaurant": _restaurant,
    "river": _river,
    "software": _with_suffix(("desk", "flow", "base", "kit", "ware"), capital=True),
    "spacecraft": _spacecraft,
    "species": _species,
    "stadium": _with_ending(("Arena", "Stadium", "Park", "Field")),
    "star": _with_ending(("Alpha", "Beta", "Majoris", "Minoris")),
    "team": _team,
    "telescope": _with_ending(("Array", "Telescope", "Observatory", "Scope")),
    "tournament": _with_ending(("Cup", "Open", "Trophy", "Masters")),
    "version": _version,
}


def _broad(draw: Draw) -> str:
    """Draw a string of any shape, from the same mixture for every type."""
    word, second = draw.core(int(draw.pick("1222233"))), draw.core(draw.number(1, 2))
    common, count = draw.pick(NOUNS), draw.number(1, 999)
    first, other = word.capitalize(), second.capitalize()
    weight_by_string = {
        first: 18,
        f"{first} {other}": 18,
        word: 10,
        f"{word} {second}": 5,
        f"{word} {common.lower()}": 6,
        f"{first} {common}": 9,
        f"{common} {first}": 4,
        f"The {first} {common}": 3,
        f"{first} {draw.title(1)} {draw.title(1)}": 3,
        _phrase(draw): 7,
        _code(draw): 6,
        f"{word}-{count % 100}": 3,
        f"{first} {count}": 4,
        f"{first}-{other}": 3,
        f"{count} {word}": 2,
        word.upper(): 1,
        f"{word.upper()}{count % 10}": 1,
        _version(draw): 2,
        f"{first}{other}": 2,
    }
    return draw.random.choices(list(weight_by_string), list(weight_by_string.values()))[0]


# Types whose names of the split "base" keep a shape: only the shape tells a date or an amount.
BASE_SHAPES: dict[str, Shape] = {
    "date": _date,
    "amount of money": _amount_of_money,
    "percentage": _percentage,
    "person": lambda draw: _person(draw) if draw.chance(0.5) else f"{draw.title()} {draw.title(1)}",
}


def name(type: str, random: Random, split: str) -> str:
    """Return a made-up name of an entity type. No string belongs to two splits.

    Raises:
        KeyError: for a type that is not in SHAPES; the split "base" takes any type.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, not {split!r}")
    shape = BASE_SHAPES.get(type, _broad) if split == "base" else SHAPES[type]
    draw = Draw(random, split)
    for _ in range(MAXIMUM_DRAWS):
        candidate = shape(draw)
        if split_of(candidate) == split:
            return candidate
    raise RuntimeError(f"no name of the type {type!r} found for the split {split}")
