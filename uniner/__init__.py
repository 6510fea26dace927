"""UniNER: distil a large model's open named-entity recognition into a small one, on Ray.

From Python, `tag_texts` and `open_tagger` tag lists of texts.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uniner.errors import UserError
    from uniner.tag.texts import open_tagger, tag_texts

__version__ = "0.1.0"
"""Known without an installed distribution: a cluster has the code alone."""
__all__ = ["UserError", "__version__", "open_tagger", "tag_texts"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: `import uniner` alone stays cheap."""
    if name == "UserError":
        from uniner.errors import UserError

        return UserError
    if name in ("open_tagger", "tag_texts"):
        from uniner.tag import texts

        return getattr(texts, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
