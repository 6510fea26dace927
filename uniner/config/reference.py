"""Every setting with its type, default and meaning, as text: for `--help`, `uniner settings` and the docs."""

import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from uniner.config.base import Section
from uniner.config.schema import Config
from uniner.config.systems import SYSTEMS
from uniner.config.teachers import TEACHERS
from uniner.errors import UserError

_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false"}


def sections() -> dict[str, type[Section]]:
    """Return every section by its name; each kind of teacher and of system is one."""
    plain = {name: field.annotation for name, field in Config.model_fields.items() if name != "teacher"}
    teachers = {f"teacher, kind = {kind}": teacher for kind, teacher in TEACHERS.items()}
    systems = {f"evaluate.system.NAME, kind = {kind}": system for kind, system in SYSTEMS.items()}
    return {**plain, **teachers, **systems}  # type: ignore[dict-item]


def describe(section: str | None = None, width: int = 100) -> str:
    """Describe the settings of a section, such as "tag" or "teacher", or of all.

    Raises:
        UserError: where no section has this name.
    """
    parts = []
    shown: set[tuple[str, str]] = set()  # the kinds of a teacher share most settings
    for name, model in _chosen(section).items():
        lines = [f"[{name}]  {summary(model)}"]
        repeated = [key for key, field in model.model_fields.items() if (key, _text(field)) in shown]
        if repeated:
            lines += textwrap.wrap(
                f"As above: {', '.join(repeated)}.", width, initial_indent="  ", subsequent_indent="  "
            )
        for key, field in model.model_fields.items():
            if key in repeated or key == "kind":
                continue
            shown.add((key, _text(field)))
            lines.append(f"  {key}  ({_type_and_default(field)})")
            lines += textwrap.wrap(_text(field), width, initial_indent="      ", subsequent_indent="      ")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def markdown(section: str | None = None) -> str:
    """Return the settings of a section, or of all, as Markdown: a table for each kind.

    Raises:
        UserError: where no section has this name.
    """
    parts = []
    for name, model in _chosen(section).items():
        rows = [
            f"| `{key}` | {_cell(type_name(field.annotation))} "
            f"| {_cell(_default(field).removeprefix('default '))} | {_cell(_text(field))} |"
            for key, field in model.model_fields.items()
            if key != "kind"
        ]
        head = ["| setting | takes | default | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([f"### [{name}]", "", summary(model), "", *(head + rows if rows else [])]))
    return "\n\n".join(parts)


def _chosen(section: str | None) -> dict[str, type[Section]]:
    chosen = {
        name: model for name, model in sections().items() if section is None or name.split(",")[0] == section
    }
    if not chosen:
        names = dict.fromkeys(name.split(",")[0] for name in sections())
        raise UserError(f"settings: there is no section {section}; the sections are {', '.join(names)}")
    return chosen


def _cell(text: str) -> str:
    """Return a cell's text: what Markdown or HTML would read as marks is shown."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return escaped.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")


def brief(section: str, width: int = 100) -> list[str]:
    """Return a line per setting of a section: name, default and the first sentence of its meaning."""
    name, model = next((name, model) for name, model in sections().items() if name.split(",")[0] == section)
    lines = [f"[{name}]  {summary(model)}"]
    for key, field in model.model_fields.items():
        first = _text(field).split(". ")[0].rstrip(".")
        lines.append(textwrap.shorten(f"{key} ({_default(field)}): {first}", width, placeholder=" ..."))
    return lines


def summary(model: type[Section]) -> str:
    """Return the first paragraph of a section's docstring, in one line."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _text(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _type_and_default(field: FieldInfo) -> str:
    kind = type_name(field.annotation)
    # A workers-like type has a check of its own in place of pydantic's: its text says what it takes.
    return f"{kind}, {_default(field)}" if kind else _default(field)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    if default is None:
        return "unset"
    if isinstance(default, bool):
        return f"default {str(default).lower()}"
    if isinstance(default, Section):
        return "default: its defaults"
    text = repr(default).replace("'", '"')
    return f"default {text if len(text) < 60 else text[:56] + ' ...'}"


def type_name(annotation: Any) -> str:
    """Return a type in words, with its allowed values: "text", "list of text", "'a' or 'b'"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _NAMES:
        return _NAMES[annotation]
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        if all(isinstance(argument, type) and issubclass(argument, Section) for argument in arguments):
            return "section"
        return " | ".join(_alternatives(arguments))
    if origin is list:
        return f"list of {type_name(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(type_name(argument) for argument in arguments)}]"
    if origin is dict:
        return f"table of {type_name(arguments[1])}"
    return "section"


def _alternatives(arguments: tuple[Any, ...]) -> Iterator[str]:
    for argument in arguments:
        if argument is not type(None):
            yield type_name(argument)
