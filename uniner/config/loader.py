"""Load the config: a TOML file, then `section.key=value` words."""

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from uniner.config.schema import Config
from uniner.config.systems import SYSTEMS
from uniner.errors import UserError


def load(words: list[str]) -> Config:
    """Build the tree from command-line words: a TOML file first, then any number of section.key=value.

    Raises:
        UserError: naming the file, key or value that is wrong.
    """
    if not words or "=" in words[0]:
        raise UserError("the first word must be a TOML config file, then section.key=value words")
    tree = _read(Path(words[0]))
    for word in words[1:]:
        _set(tree, word)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_describe(problem) for problem in error.errors())) from None


def _read(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file, over the one that it says it is like."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"config file {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is not TOML: {error}") from None
    like = tree.pop("like", None)
    if like is None:
        return tree
    if not isinstance(like, str) or path.with_name(like) in (*above, path):
        raise UserError(f"config file {path}: like = {like!r} must name another file of its folder")
    below = _read(path.with_name(like), (*above, path))
    for section, values in tree.items():
        known = below.get(section)
        below[section] = (
            {**known, **values} if isinstance(known, dict) and isinstance(values, dict) else values
        )
    return below


def _set(tree: dict[str, Any], word: str) -> None:
    """Set one `section.key=value` word in the tree; the value is read as TOML, else as plain text.

    `section.key=default` takes back what the file says.
    """
    name, equals, value = word.partition("=")
    *sections, key = name.split(".")
    if not equals or not sections or not key:
        raise UserError(f"'{word}' is not of the form section.key=value")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise UserError(f"'{word}': {section} is a value, not a section")
    if value == "default":
        tree.pop(key, None)
        return
    try:
        tree[key] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        tree[key] = value


def _describe(problem: Any) -> str:
    # A wrong key of a table is named by the key itself, which pydantic follows with a mark of its own; a
    # system's settings by their kind, which is no key.
    parts = [str(part) for part in problem["loc"] if part != "[key]"]
    of_system = parts[:2] == ["evaluate", "system"]
    name = ".".join(part for place, part in enumerate(parts) if place != 3 or not of_system)
    if problem["type"] == "extra_forbidden":
        return f"unknown setting {name}{_nearest(problem['loc'])}"
    if problem["type"] == "missing":
        return f"setting {name} is missing"
    if problem["type"].startswith("union_tag"):
        return f"{name}.kind must be one of {', '.join(SYSTEMS)}"
    return f"{name} = {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _nearest(location: tuple[Any, ...]) -> str:
    import difflib

    model: Any = Config
    if location[:2] == ("evaluate", "system"):
        model = SYSTEMS[location[3]]
    else:
        for part in location[:-1]:
            model = model.model_fields[part].annotation
    near = difflib.get_close_matches(str(location[-1]), list(model.model_fields), n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def describe() -> str:
    """Return every setting with its default and meaning, for --help."""
    sections: dict[str, Any] = {name: field.annotation for name, field in Config.model_fields.items()}
    for kind, system in SYSTEMS.items():
        sections[f"evaluate.system.NAME, kind = {kind}"] = system
    lines = []
    for name, section in sections.items():
        lines.append(f"\n[{name}]  {section.__doc__.strip()}")
        for key, setting in section.model_fields.items():
            default = "required" if setting.is_required() else repr(setting.default)
            lines.append(f"  {key} ({default})\n      {' '.join((setting.description or '').split())}")
    return "\n".join(lines)
