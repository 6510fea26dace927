"""Tell whether a number that carries a checksum is right: IBAN, payment card, ISBN. Pure."""

import re
from collections.abc import Callable, Mapping

_BLANKS = re.compile(r"[\s-]+")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"[0-9]{12,19}")
_ISBN_10, _ISBN_13 = re.compile(r"[0-9]{9}[0-9X]"), re.compile(r"97[89][0-9]{10}")


def is_iban(text: str) -> bool:
    """Tell whether a text is an IBAN: ISO 13616, the remainder by 97 of the rearranged digits is 1."""
    number = _compact(text)
    if not _IBAN.fullmatch(number):
        return False
    digits = "".join(str(int(letter, 36)) for letter in number[4:] + number[:4])
    return int(digits) % 97 == 1


def is_card(text: str) -> bool:
    """Tell whether a text is a payment card's number: 12 to 19 digits with Luhn's checksum, ISO 7812."""
    number = _compact(text)
    if not _CARD.fullmatch(number):
        return False
    digits = [int(digit) for digit in reversed(number)]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits)]
    return sum(doubled) % 10 == 0


def is_isbn(text: str) -> bool:
    """Tell whether a text is an ISBN of 10 or 13 digits."""
    number = _compact(text)
    if _ISBN_10.fullmatch(number):
        values = [10 if digit == "X" else int(digit) for digit in number]
        return sum(weight * value for weight, value in zip(range(10, 0, -1), values, strict=True)) % 11 == 0
    if not _ISBN_13.fullmatch(number):
        return False
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(number)) % 10 == 0


CHECKS: Mapping[str, Callable[[str], bool]] = {"iban": is_iban, "card": is_card, "isbn": is_isbn}
"""By the name that a rule uses."""


def _compact(text: str) -> str:
    """Return a number without the blanks and dashes that group its digits."""
    return _BLANKS.sub("", text).upper()
