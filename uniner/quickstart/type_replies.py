"""The recorded teacher's descriptions of the quickstart's types, and its synonyms for them.

Of the two synonyms that evaluate asks by (gold/paraphrases.json) the teacher names the first, not the second,
and its descriptions have other words: so the measure tells words that training has shown from new ones.
"""

import json
from collections.abc import Iterator

_WORDS = {
    "airline": ("a company that transports people or cargo by air", "air carrier", "flight operator"),
    "airport": ("a site with runways for aircraft", "airfield", "aerodrome"),
    "amount of money": ("a sum in a certain currency", "sum of money", "monetary value"),
    "athlete": ("a person who does sport and takes part in contests", "sportsperson", "player"),
    "chemical": ("a compound or element of chemistry", "chemical substance", "chemical agent"),
    "city": ("an urban settlement", "town", "urban area"),
    "company": ("a commercial business", "firm", "business enterprise"),
    "country": ("a state on the map", "nation", "nation state"),
    "court": ("an institution of justice where judges rule", "tribunal", "judicial body"),
    "date": ("a day, month or year in the calendar", "calendar date", "point in time"),
    "disease": ("a disorder of the body or mind", "illness", "sickness"),
    "dish": ("food that is prepared in a certain way", "prepared meal", "plate of food"),
    "dosage": ("the quantity and frequency of a drug", "dose", "prescribed amount"),
    "drug": ("a substance given as a medicine", "medication", "medicine"),
    "gene": ("a unit of heredity", "genetic locus", "hereditary unit"),
    "hospital": ("a clinic or other house for the sick", "medical center", "clinic"),
    "hotel": ("an establishment that rents rooms to travellers", "inn", "guest house"),
    "ingredient": ("a food that is used in cooking", "cooking ingredient", "component of a recipe"),
    "law": ("a legal act or regulation", "statute", "legal act"),
    "mountain": ("a high elevation of the earth", "peak", "mount"),
    "percentage": ("a part of a hundred", "percent", "proportion"),
    "person": ("a human known by a first or last name", "human being", "named person"),
    "planet": ("a celestial body in orbit around a sun", "world", "orbiting body"),
    "product": ("an article that a company offers", "item for sale", "merchandise"),
    "programming language": ("a formal language for computers", "coding language", "scripting language"),
    "protein": ("a biomolecule such as an enzyme or a receptor", "polypeptide", "gene product"),
    "restaurant": ("a business that serves meals to guests", "eatery", "bistro"),
    "river": ("a natural flow of water", "stream", "waterway"),
    "software": ("an application or tool that runs on a machine", "computer program", "application"),
    "spacecraft": ("a craft made for travel in outer space", "space vehicle", "spaceship"),
    "species": ("a group of organisms with a Latin name", "biological species", "organism"),
    "stadium": ("a venue with seats around a pitch", "sports arena", "sports venue"),
    "star": ("a luminous ball of gas in the sky", "sun", "stellar body"),
    "team": ("the players who compete on one side", "sports club", "club"),
    "telescope": ("a device for looking at distant objects", "observatory instrument", "optical instrument"),
    "tournament": ("a sports event that has a winner", "championship", "cup"),
    "version": ("the designation of a software release", "release number", "build number"),
}  # fmt: skip


def type_replies() -> Iterator[tuple[str, str]]:
    """Yield each question about a type, as a recording has it, with the teacher's reply."""
    for name, (description, *synonyms) in _WORDS.items():
        reply = {"description": description, "synonyms": synonyms}
        yield f"Type: {name}", json.dumps(reply, ensure_ascii=False)
