"""Whether a student's longest conversation has room for the answers of its template."""

from uniner.errors import UserError
from uniner.templates import make_template

_ANSWER_SHARE = 2.3
"""An answer that repeats the passage with tags is about 1.9 times as long with a vocabulary of 49,000, and a
passage with many mentions takes a fifth more."""
_PROMPT_TOKENS = 150
"""Tokens of a prompt besides its passage: system line, turns, and a question with some 30 types."""


def require_room_for_answers(template: str, max_tokens: int, passage_tokens: int) -> None:
    """Refuse a template whose answers about the longest passages would not fit into a conversation.

    max_tokens: student.max_tokens. passage_tokens: ingest.max_tokens.

    Raises:
        UserError: saying what would fit.
    """
    if make_template(template).empty_answer("") is None:  # answers do not grow with the passage
        return
    share = 1 + _ANSWER_SHARE
    needed = int(share * passage_tokens) + _PROMPT_TOKENS
    if needed > max_tokens:
        fitting = max(1, int((max_tokens - _PROMPT_TOKENS) / share))
        raise UserError(
            f"student.max_tokens = {max_tokens}: with the template {template} an answer is about twice as "
            f"long as its passage, of up to ingest.max_tokens = {passage_tokens}; set "
            f"student.max_tokens={needed}, or ingest.max_tokens={fitting}"
        )
