"""Tell whether a number that carries a checksum is right: IBAN, payment card, ISBN. Pure."""

import re
from collections.abc import Callable, Mapping

_BLANKS = re.compile(r"[\s\u2010-\u2015\u2212-]+")
"""What groups digits: blanks, and dashes as they are printed."""
_ISBN_MARK = re.compile(r"^ISBN(?:1[03])?:?(?=(?:[0-9]{9}[0-9X]|[0-9]{13})$)")
_IBAN = re.compile(r"[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"[1-9][0-9]{11,18}")
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC",
        32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
"""Characters of an IBAN by country (SWIFT's registry of ISO 13616)."""
_ISBN_10, _ISBN_13 = re.compile(r"[0-9]{9}[0-9X]"), re.compile(r"97[89][0-9]{10}")


def is_iban(text: str) -> bool:
    """Tell whether a text is an IBAN (ISO 13616): its country's length, and the remainder by 97 of the
    rearranged digits is 1."""
    number = _compact(text)
    if not _IBAN.fullmatch(number) or _IBAN_LENGTHS.get(number[:2]) != len(number):
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
    """Tell whether a text is an ISBN of 10 or 13 digits, also with the letters ISBN before it."""
    number = _ISBN_MARK.sub("", _compact(text))
    if set(number) == {"0"}:
        return False
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
