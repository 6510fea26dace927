"""What the sections of the config tree are made of: a strict, frozen base, and types of settings."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

HOW: JsonDict = {"identity": False}
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0)]
TypeName = Annotated[str, Field(pattern=r"^\S(.*\S)?$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What becomes part of a file's or folder's name."""


class Section(BaseModel):
    """A strict, frozen section of the tree."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def identity(self) -> dict[str, Any]:
        """Return the settings that decide what comes out: all fields but those marked `HOW`."""
        how = {
            name
            for name, field in type(self).model_fields.items()
            if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("identity") is False
        }
        return self.model_dump(mode="json", exclude=how)


class Requests(Section):
    """How a chat model's server is asked: how much at once, how often again, at what price."""

    in_flight: Count = Field(64, json_schema_extra=HOW)
    """Requests in flight an actor."""
    timeout_s: Annotated[float, Field(gt=0)] = Field(60.0, json_schema_extra=HOW)
    """Seconds until a request is given up and tried again."""
    retries: Annotated[int, Field(ge=0)] = Field(6, json_schema_extra=HOW)
    """Further tries, with back-off, after 408, 409, 429, 5xx, time-out, lost connection or garbage."""
    requests_per_minute: Annotated[float, Field(gt=0)] | None = Field(None, json_schema_extra=HOW)
    """Most requests a minute, tries included, of all actors together; unset: no limit."""
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = Field(None, json_schema_extra=HOW)
    """Most tokens a minute, prompts and replies, of all actors together; unset: no limit."""
    usd_per_million_in: Annotated[float, Field(ge=0)] = Field(0.0, json_schema_extra=HOW)
    """Price of a million prompt tokens, for the cost in the manifest."""
    usd_per_million_out: Annotated[float, Field(ge=0)] = Field(0.0, json_schema_extra=HOW)
    """Price of a million reply tokens."""
