"""Tell whether a number that carries a checksum is right: IBAN, payment card, ISBN. Pure."""

import re
from collections.abc import Callable, Mapping

_BLANKS = re.compile(r"[\s\u2010-\u2015\u2212-]+")
"""What groups digits: blanks, and dashes as they are printed."""
# What says before a number which kind it is, as in "IBAN: DE89 ..." and "Card no. 4111 ...".
_NAMES = {"iban": "IBAN", "card": "(?:CREDIT|DEBIT|BANK|PAYMENT)?CARD", "isbn": "ISBN(?:1[03])?"}
_SHAPES = {
    "iban": "[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}",
    "card": "[1-9][0-9]{11,18}",
    "isbn": "97[89][0-9]{10}|[0-9]{9}[0-9X]",
}
_NUMBERS = {
    kind: re.compile(rf"(?:{name}(?:NUMBER|NO|NR|CODE)?[.:\uff1a#\u2116]*)?({_SHAPES[kind]})")
    for kind, name in _NAMES.items()
}
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


def is_iban(text: str) -> bool:
    """Tell whether a text is an IBAN (ISO 13616): its country's length, and the remainder by 97 of the
    rearranged digits is 1. Its name may stand before it, here and below."""
    number = _number("iban", text)
    if not number or _IBAN_LENGTHS.get(number[:2]) != len(number):
        return False
    digits = "".join(str(int(letter, 36)) for letter in number[4:] + number[:4])
    return int(digits) % 97 == 1


def is_card(text: str) -> bool:
    """Tell whether a text is a payment card's number: 12 to 19 digits with Luhn's checksum, ISO 7812."""
    number = _number("card", text)
    digits = [int(digit) for digit in reversed(number)]
    doubled = [digit if place % 2 == 0 else sum(divmod(2 * digit, 10)) for place, digit in enumerate(digits)]
    return bool(number) and sum(doubled) % 10 == 0


def is_isbn(text: str) -> bool:
    """Tell whether a text is an ISBN of 10 or 13 digits."""
    number = _number("isbn", text)
    if not number.strip("0"):
        return False
    if len(number) == 10:
        values = [10 if digit == "X" else int(digit) for digit in number]
        return sum(weight * value for weight, value in zip(range(10, 0, -1), values, strict=True)) % 11 == 0
    return sum(int(digit) * (3 if place % 2 else 1) for place, digit in enumerate(number)) % 10 == 0


CHECKS: Mapping[str, Callable[[str], bool]] = {"iban": is_iban, "card": is_card, "isbn": is_isbn}
"""By the name that a rule uses."""
SURE = frozenset({"iban"})
"""Those that one chance number of a hundred or fewer passes; of the others it is one of ten."""


def _number(kind: str, text: str) -> str:
    """Return a number without its name and the blanks and dashes that group its digits; "" if it is none."""
    match = _NUMBERS[kind].fullmatch(_BLANKS.sub("", text).upper())
    return match[1] if match else ""
