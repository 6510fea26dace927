"""What the teacher is asked: the paper's prompts, word for word (Fig. 1; the definition model's card)."""

SYSTEM = "You are a helpful information extraction system."
_FOR_TEMPLATE = {
    "type": (
        "Given a passage, your task is to extract all entities and identify their entity types. "
        "The output should be in a list of tuples of the following format: "
        '[("entity 1", "type of entity 1"), ... ].'
    ),
    "definition": (
        "Given a paragraph, your task is to extract all entities and concepts, and define their type using a "
        "short sentence. The output should be in the following format: "
        '[("entity", "definition of entity type in a short sentence"), ... ]'
    ),
}
PASSAGE_MARK = "\n\nPassage: "


def messages(template: str, passage: str) -> list[dict[str, str]]:
    """Return the chat messages that ask the teacher about a passage."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{_FOR_TEMPLATE[template]}{PASSAGE_MARK}{passage}"},
    ]


def passage_in(user_message: str) -> str:
    """Return the passage that a user message of `messages` asks about."""
    return user_message.split(PASSAGE_MARK, 1)[-1]
