"""What the teacher is asked: the paper's prompts, word for word (Fig. 1; the definition model's card), or a
file of the user's own."""

import hashlib
from dataclasses import dataclass
from typing import Any

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem

SYSTEM = "You are a helpful information extraction system."
PASSAGE = "{passage}"
"""Where the passage goes in a prompt of one's own."""
PASSAGE_MARK = "\n\nPassage: "
PROBE = "Reply with one word."
"""A message that asks no more than whether the server answers."""

_TASK = {
    "type": (
        "Given a passage, your task is to extract all entities and identify their entity types. "
        "The output should be in "
    ),
    "definition": (
        "Given a paragraph, your task is to extract all entities and concepts, and define their type using a "
        "short sentence. The output should be in "
    ),
}
_TUPLES = {
    "type": 'a list of tuples of the following format: [("entity 1", "type of entity 1"), ... ].',
    "definition": 'the following format: [("entity", "definition of entity type in a short sentence"), ... ]',
}
# The paper has no such variant: the words are ours.
_JSON = {
    "type": (
        'JSON of the following format: {"entities": [{"entity": "entity 1", "type": "type of it"}, ... ]}'
    ),
    "definition": (
        'JSON of the following format: {"entities": [{"entity": "entity", "type": "definition of entity type '
        'in a short sentence"}, ... ]}'
    ),
}
_WORDS = {"type": "string"}
JSON_SCHEMA: dict[str, Any] = {
    "type": "json_schema",
    "json_schema": {
        "name": "entities",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {
                "entities": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"entity": _WORDS, "type": _WORDS},
                        "required": ["entity", "type"],
                        "additionalProperties": False,
                    },
                }
            },
            "required": ["entities"],
            "additionalProperties": False,
        },
    },
}
"""The request's response_format where annotate.reply_format is json_schema."""


@dataclass(frozen=True)
class Prompt:
    """The chat messages that ask about a passage: `user` holds `mark`, where it goes; no system message where
    `system` is ""."""

    system: str
    user: str
    mark: str = PASSAGE

    def messages(self, passage: str) -> list[dict[str, str]]:
        """Return the chat messages that ask the teacher about a passage."""
        asked = {"role": "user", "content": self.user.replace(self.mark, passage)}
        return [{"role": "system", "content": self.system}, asked] if self.system else [asked]

    def digest(self) -> str:
        """Return what identifies the prompt's words."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]


def published(template: str, reply_format: str = "tuples") -> Prompt:
    """Return the paper's prompt of a template; with `json_schema` another format is asked for.

    Only `definition` differs: how a student is asked for types does not change what the teacher is asked.
    """
    asked = template if template == "definition" else "type"
    form = (_TUPLES if reply_format == "tuples" else _JSON)[asked]
    return Prompt(SYSTEM, f"{_TASK[asked]}{form}{PASSAGE_MARK}{PASSAGE}")


def load(url: str, mark: str = PASSAGE) -> Prompt:
    """Read a prompt file: text with `mark` where the passage goes; a first line `System: ...` is that.

    Raises:
        UserError: where the file is missing, no text, or without the mark.
    """
    system, path = filesystem(url)
    with explained(url):
        data = system.cat_file(path)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").strip()
    except UnicodeDecodeError:
        raise UserError(f"{url}: is no UTF-8 text; a prompt is a text file") from None
    first, _, rest = text.partition("\n")
    label, colon, said = first.partition(":")
    system_line, user = (said.strip(), rest.strip()) if colon and label.lower() == "system" else ("", text)
    if mark not in user:
        what = mark.strip("{}")
        raise UserError(f"{url}: has no {mark} (after the system line); put it where the {what} goes")
    return Prompt(system_line, user, mark)


def chosen(url: str | None, template: str, reply_format: str) -> Prompt:
    """Return the prompt of a file, where one is named, else the published one."""
    return load(url) if url else published(template, reply_format)


def passage_in(user_message: str) -> str:
    """Return the passage that a user message of a `published` prompt asks about."""
    return user_message.split(PASSAGE_MARK, 1)[-1]
