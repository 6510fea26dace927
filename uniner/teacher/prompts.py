"""The prompts: the paper's, word for word (Fig. 1; the definition model's card), or a file of the user's."""

import hashlib
from dataclasses import dataclass
from typing import Any

from uniner.errors import UserError
from uniner.storage.filesystem import explained, filesystem

SYSTEM = "You are a helpful information extraction system."
PASSAGE = "{passage}"
"""The place of the passage in a prompt file."""
PASSAGE_MARK = "\n\nPassage: "
PROBE = "Reply with one word."
"""A message that only tests whether the server answers."""

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
# The paper has no JSON variant; these words are ours.
_JSON = {
    "type": (
        'JSON of the following format: {"entities": [{"entity": "entity 1", "type": "type of it"}, ... ]}'
    ),
    "definition": (
        'JSON of the following format: {"entities": [{"entity": "entity", "type": "definition of entity type '
        'in a short sentence"}, ... ]}'
    ),
}
_STRING = {"type": "string"}
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
                        "properties": {"entity": _STRING, "type": _STRING},
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
"""The request's response_format for annotate.reply_format=json_schema."""


@dataclass(frozen=True)
class Prompt:
    """The chat messages about a passage. `user` contains `mark`, the place of the passage. An empty `system`
    means no system message."""

    system: str
    user: str
    mark: str = PASSAGE

    def messages(self, passage: str) -> list[dict[str, str]]:
        """Return the chat messages about a passage."""
        message = {"role": "user", "content": self.user.replace(self.mark, passage)}
        return [{"role": "system", "content": self.system}, message] if self.system else [message]

    def digest(self) -> str:
        """Return a digest of the prompt's text."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]


def published_prompt(template: str, reply_format: str = "tuples") -> Prompt:
    """Return the paper's prompt for a student template, for replies as tuples or by `json_schema`.

    Only the template `definition` has its own prompt: the others differ in how the student is asked, not the
    teacher.
    """
    task = template if template == "definition" else "type"
    output = (_TUPLES if reply_format == "tuples" else _JSON)[task]
    return Prompt(SYSTEM, f"{_TASK[task]}{output}{PASSAGE_MARK}{PASSAGE}")


def load_prompt(url: str, mark: str = PASSAGE) -> Prompt:
    """Read a prompt file: text that contains `mark`. A first line `System: ...` is the system message.

    Raises:
        UserError: where the file is missing, is not text or lacks the mark.
    """
    system, path = filesystem(url)
    with explained(url):
        data = system.cat_file(path)
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n").strip()
    except UnicodeDecodeError:
        raise UserError(f"{url}: is not UTF-8 text; a prompt is a text file") from None
    first, _, rest = text.partition("\n")
    label, colon, message = first.partition(":")
    has_system = colon and label.lower() == "system"
    system_message, user = (message.strip(), rest.strip()) if has_system else ("", text)
    if mark not in user:
        name = mark.strip("{}")
        raise UserError(f"{url}: has no {mark} (after the system line); put it where the {name} goes")
    return Prompt(system_message, user, mark)


def annotation_prompt(url: str | None, template: str, reply_format: str) -> Prompt:
    """Return the prompt of a file, or the published one where no file is named."""
    return load_prompt(url) if url else published_prompt(template, reply_format)


def passage_in(user_message: str) -> str:
    """Return the passage in a user message of a `published_prompt`."""
    return user_message.split(PASSAGE_MARK, 1)[-1]
