"""The form in which a server takes a request: which parameters it has, and what they are called.

Reasoning models refuse `max_tokens` (they want `max_completion_tokens`) or a temperature. The form is not
part of a request's key in the reply cache.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from uniner.teacher.completion import ChatRequest

_OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_REFUSES = re.compile(
    r"unsupported|not support(?:ed)?\b|unrecognized|unknown|unexpected|not (?:permitted|allowed)|"
    r"extra (?:inputs|fields)|deprecated|use '?max_",
    re.IGNORECASE,
)
_STATUSES = (400, 422)


@dataclass(frozen=True, kw_only=True)
class RequestForm:
    """limit: the parameter that holds a reply's longest length. temperature: whether one is sent."""

    limit: str = "max_tokens"
    temperature: bool = True

    def body(self, request: ChatRequest) -> Mapping[str, Any]:
        """Return a request's body in this form."""
        if self.limit == "max_tokens" and self.temperature:
            return request
        body: dict[str, Any] = {
            self.limit if name == "max_tokens" else name: value for name, value in request.items()
        }
        if not self.temperature:
            del body["temperature"]
        return body

    def after(self, status: int, parameter: str | None, message: str) -> "RequestForm | None":
        """Return the form that avoids the parameter which an error refuses; None for any other error."""
        if status not in _STATUSES or not _REFUSES.search(message):
            return None
        names = [parameter] if parameter else re.findall(r"\w+", message)
        if self.limit in names:
            return replace(self, limit=_OTHER_LIMIT[self.limit])
        return replace(self, temperature=False) if self.temperature and "temperature" in names else None

    def change(self, other: "RequestForm") -> str:
        """Say how another form differs."""
        if other.limit != self.limit:
            return f"takes no {self.limit}; {other.limit} is sent in its place"
        return "takes no temperature; its own is used"
