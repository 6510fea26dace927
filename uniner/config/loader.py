"""Load the config: a TOML file, then `section.key=value` words; check it whole.

Defaults < TOML file < words. A file that begins with `like = "other.toml"` says only what differs from that
file of the same folder.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from uniner.config.base import Section
from uniner.config.room import require_room_for_answers
from uniner.config.schema import Config
from uniner.config.systems import SYSTEMS
from uniner.config.teachers import TEACHERS
from uniner.errors import UserError
from uniner.labels import has_surrogate

_OF_TEACHER = (
    "model", "base_url", "actors", "in_flight", "timeout_s", "retries", "requests_per_minute",
    "tokens_per_minute", "usd_per_million_in", "usd_per_million_out", "cache",
)  # fmt: skip
_MOVED = {
    **{f"annotate.{key}": f"teacher.{key}" for key in _OF_TEACHER},
    "annotate.budget_usd": "run.budget_usd",
    "annotate.served": 'teacher.kind = "vllm"',
    "annotate.batch": 'teacher.kind = "batch"',
    "annotate.recording": 'teacher.kind = "recording" and teacher.path',
    "annotate.plan": "the option --estimate: uniner annotate CONFIG --estimate",
    "train.plan": "the option --estimate: uniner train CONFIG --estimate",
    "tag.plan": "the option --estimate: uniner tag CONFIG --estimate",
    "tag.text": 'the option --text: uniner tag CONFIG --text "..."',
    "tag.page": "the option --serve: uniner tag CONFIG --serve 7860",
    "evaluate.catalogue": "the option --datasets: uniner evaluate CONFIG --datasets",
    "annotate.located": "annotate.occurrences",
    "tag.located": "tag.occurrences",
    "ingest.passages": "ingest.max_passages",
    "train.failures": "train.max_failures",
    "train.clip_norm": "train.max_grad_norm",
    "train.spike_factor": "train.loss_spike_factor",
    "engine.hang_seconds": "engine.hang_timeout_s",
    "engine.poison_tries": "engine.max_chunk_crashes",
    "teacher.hang_seconds": "teacher.hang_timeout_s",
    "teacher.poison_tries": "teacher.max_chunk_crashes",
}
"""Settings of earlier versions to what replaced them."""
_EXAMPLES = {
    "run": "run.name=my-run",
    "run.name": "run.name=my-run",
    "student": "student.base=Qwen/Qwen3-0.6B",
    "student.base": "student.base=Qwen/Qwen3-0.6B",
}
"""Settings that every config must have, each with an example."""
_EXPECTED = {
    "int": "must be a whole number, such as {default}",
    "float": "must be a number, such as 0.5",
    "finite": "must be a finite number, such as 0.5",
    "bool": "must be true or false",
    "string": 'must be text, such as "news"',
    "list": 'must be a list, such as {name}=\'["person", "city"]\'',
    "dict": "must be a table, such as {name}.NAME=VALUE",
    "model": "must be a section, such as {name}.KEY=VALUE",
}
"""The first word of pydantic's error type to what the value must be."""
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
"""pydantic's error types of numbers out of bounds to where their context has the bound."""
_PATTERNS = {
    r"^[A-Za-z0-9][A-Za-z0-9._-]*$": "must be letters, digits, '.', '_' and '-', such as my-run",
    "^[a-z]{2,3}$": 'must be a language by its code of ISO 639, such as "en"',
}
"""Patterns of text to what they mean."""


def load(words: Sequence[str]) -> Config:
    """Build the config from command-line words: a TOML file, then any number of section.key=value.

    Raises:
        UserError: naming the file, key or value that is wrong, and what would be right.
    """
    if not words or "=" in words[0]:
        raise UserError(
            "the first word must be a config file, such as my-run.toml; then section.key=value words, such "
            "as ingest.sample=0.01"
        )
    tree = _read(Path(words[0]))
    for number, word in enumerate(words[1:], 1):
        if has_surrogate(word):  # a byte of the command line that is not UTF-8
            raise UserError(
                f"setting {number} of the command line ({ascii(word)[1:-1][:60]}) is not UTF-8; type it in a "
                "terminal whose locale is UTF-8, such as LANG=C.UTF-8"
            )
        _set(tree, word)
    return checked(tree)


def checked(tree: Mapping[str, Any]) -> Config:
    """Build the config from sections of settings.

    Raises:
        UserError: naming the key or value that is wrong, and what would be right.
    """
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_lines(error.errors()))) from None
    require_room_for_answers(config.student.template, config.student.max_tokens, config.ingest.max_tokens)
    return config


def _read(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a TOML file, laid over the file that its `like` names."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"config file {path}: {error.strerror or error}; name a TOML file, such as my-run.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"config file {path} is not TOML: {error}") from None
    like = tree.pop("like", None)
    if like is None:
        return tree
    if not isinstance(like, str) or path.with_name(like) in (*children, path):
        raise UserError(f"config file {path}: like = {like!r} must name another file of its folder")
    merged = _read(path.with_name(like), (*children, path))
    for section, values in tree.items():
        inherited = merged.get(section)
        both = isinstance(inherited, dict) and isinstance(values, dict)
        merged[section] = {**inherited, **values} if both else values  # type: ignore[dict-item]
    return merged


def _set(tree: dict[str, Any], word: str) -> None:
    """Set one section.key=value word; the value is read as TOML, else as plain text.

    `section.key=default` takes back what the file says.
    """
    name, equals, value = word.partition("=")
    *sections, key = name.split(".")
    if not equals or not sections or not key:
        raise UserError(f"'{word}' is not of the form section.key=value, such as ingest.sample=0.01")
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


def _lines(problems: Sequence[Any]) -> Iterator[str]:
    """Yield a line for each setting that is wrong. One of several types has a problem for each of them."""
    expected: dict[str, list[str]] = {}
    for problem in problems:
        subject, right = _describe(problem)
        expected.setdefault(subject, []).append(right)
    for subject, (first, *others) in expected.items():
        yield subject + first + "".join(f", or {other.split('must be ', 1)[-1]}" for other in others)


def _describe(problem: Any) -> tuple[str, str]:
    """Say which setting is wrong, and what would be right."""
    section, keys = _resolve(problem["loc"])
    name = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        return _unknown(name, keys, section), ""
    if problem["type"] == "missing":
        return _missing(name, keys), ""
    if problem["type"].startswith("union_tag"):
        kinds: Mapping[str, Any] = TEACHERS if keys[-1] == "teacher" else SYSTEMS
        return f"{name}.kind must be one of {', '.join(kinds)}", ""
    if problem["type"] == "string_pattern_mismatch":
        expected = _PATTERNS[problem["ctx"]["pattern"]]
    else:
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be", 1)
        message = f"{message[0].lower()}{message[1:]}"
        kind, _, detail = problem["type"].partition("_")
        wrong_type = kind in _EXPECTED and detail in (
            "type",
            "parsing",
            "from_float",
            "attributes_type",
            "number",
        )
        field = section.model_fields.get(keys[-1])
        default = field.default if field and isinstance(field.default, int) else 2
        right_type = _EXPECTED.get(kind, "").replace("{name}", name).replace("{default}", str(default))
        expected = (right_type if wrong_type else message) + _right_value(problem, field)
    if problem["loc"][-1] == "[key]":
        return f"{'.'.join(keys[:-1])}: the name {problem['input']!r} ", expected
    return f"{name} = {problem['input']!r}: ", expected


def _right_value(problem: Any, field: FieldInfo | None) -> str:
    """Return an example of a value within its bounds, for a value that is not; "" of another problem."""
    if problem["type"] == "string_too_short":
        return "; leave the setting out where there is none" if field and field.default is None else ""
    bound = problem.get("ctx", {}).get(_BOUNDS.get(problem["type"], ""))
    if bound is None:
        return ""
    default = field.default if field else None
    if isinstance(default, int | float):
        return f", such as {default}"
    inside = {"greater_than": bound + 1, "less_than": bound / 2}
    return f", such as {inside.get(problem['type'], bound):g}"


def _missing(name: str, keys: Sequence[str]) -> str:
    if name in _EXAMPLES:
        return f"setting {name} is missing; set it, such as {_EXAMPLES[name]}"
    return f"setting {name} is missing; `uniner settings {_listed(keys)}` describes it"


def _listed(keys: Sequence[str]) -> str:
    """Return the name by which `uniner settings` lists the section of a setting."""
    return "evaluate.system.NAME" if keys[:2] == ["evaluate", "system"] and len(keys) > 3 else keys[0]


def _unknown(name: str, keys: Sequence[str], section: type[Section]) -> str:
    key = keys[-1]
    chat = name.startswith("evaluate.system.") and section is SYSTEMS["chat"]
    moved = f"{name.rsplit('.', 1)[0]}.teacher.{key}" if chat and key in _OF_TEACHER else _MOVED.get(name)
    if moved:
        return f"{name} moved: use {moved}"
    if section in TEACHERS.values():
        having = [kind for kind, teacher in TEACHERS.items() if key in teacher.model_fields]
        if having:
            return f"unknown setting {name}: only teacher.kind = {' or '.join(map(repr, having))} has it"
    near = difflib.get_close_matches(key, list(section.model_fields), n=1)
    if near:
        return f"unknown setting {name} (did you mean {'.'.join([*keys[:-1], near[0]])}?)"
    if section is Config:
        listed = ", ".join(Config.model_fields)
        return f"unknown setting {name}: there is no such section; the sections are {listed}"
    return f"unknown setting {name}; `uniner settings {_listed(keys)}` lists those that exist"


def _resolve(location: tuple[Any, ...]) -> tuple[type[Section], list[str]]:
    """Return the section that a pydantic error is in, and the setting's keys without pydantic's own marks.

    pydantic adds the `kind` of a teacher or system, a mark after a wrong key of a table, and the type that it
    tried of several.
    """
    section: type[Section] = Config
    keys: list[str] = []
    steps = [str(step) for step in location if step != "[key]"]
    while steps:
        step = steps.pop(0)
        keys.append(step)
        if step == "teacher" and steps and steps[0] in TEACHERS:
            section = TEACHERS[steps.pop(0)]
        elif keys[:2] == ["evaluate", "system"] and len(keys) == 3 and steps and steps[0] in SYSTEMS:
            section = SYSTEMS[steps.pop(0)]
        elif step in section.model_fields and isinstance(section.model_fields[step].annotation, type):
            annotation: Any = section.model_fields[step].annotation
            section = annotation if issubclass(annotation, Section) else section
        elif step in section.model_fields and _has_several_types(section.model_fields[step].annotation):
            del steps[:1]
    return section, keys


def _has_several_types(annotation: Any) -> bool:
    """Tell whether values of several types are right, besides None."""
    kinds = set(get_args(annotation)) - {type(None)}
    return get_origin(annotation) in (Union, UnionType) and len(kinds) > 1
