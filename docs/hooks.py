"""What MkDocs adds to the pages: tables of settings, made from the schema."""

import re
from typing import Any

from uniner.config.reference import markdown

_SETTINGS = re.compile(r"^<!-- settings: (\S+) -->$", re.MULTILINE)


def on_page_markdown(text: str, **_: Any) -> str:
    """Put the table of a section's settings where a page has `<!-- settings: SECTION -->`.

    Raises:
        UserError: no section has this name.
    """
    return _SETTINGS.sub(lambda match: markdown(None if match[1] == "all" else match[1]), text)
