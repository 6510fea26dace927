"""The columns of a Parquet shard that ingest reads, checked before any row is."""

from collections.abc import Callable, Iterator

import pyarrow as pa

from uniner.errors import UserError

_TEXT = ("is_string", "is_large_string", "is_string_view", "is_binary", "is_large_binary", "is_binary_view")


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds strings, or bytes, as which Spark writes strings."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_null(kind) or any(getattr(pa.types, name)(kind) for name in _TEXT)


def is_id(kind: pa.DataType) -> bool:
    """Tell whether a column may hold ids. pandas writes whole numbers beside nulls as floats."""
    return is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def require_column(
    url: str, schema: pa.Schema, name: str, setting: str, accepts: Callable[[pa.DataType], bool]
) -> None:
    """Check that a shard has a column of this name, or a field of nested ones, with values of a right kind.

    Raises:
        UserError: naming the columns that would do.
    """
    twice = [column for column in (name, name.split(".")[0]) if schema.names.count(column) > 1]
    if twice:
        raise UserError(
            f"{url}: has the column {twice[0]} twice; rename one, or set {setting} to another column"
        )
    kind = _kind_of(schema, name)
    if kind is not None and accepts(kind):
        return
    others = [column for column, its_kind in _leaves(schema) if accepts(its_kind)]
    fault = f"has no column {name}" if kind is None else f"the column {name} holds {_short(kind)}"
    if others:
        raise UserError(f"{url}: {fault}; set {setting} to one of {', '.join(others)}")
    raise UserError(f"{url}: {fault}, and no other column would do; {setting} needs a column of strings")


def _kind_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return a column's type; dots go into structs, unless a column has the whole name."""
    first, *rest = [name] if name in schema.names else name.split(".")
    if first not in schema.names:
        return None
    kind = schema.field(first).type
    for part in rest:
        if not pa.types.is_struct(kind) or kind.get_field_index(part) < 0:
            return None
        kind = kind.field(part).type
    return kind


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    fields = [(field.name, field.type) for field in schema]
    while fields:
        name, kind = fields.pop(0)
        if pa.types.is_struct(kind):
            fields = [*((f"{name}.{field.name}", field.type) for field in kind), *fields]
        else:
            yield name, kind


def _short(kind: pa.DataType) -> str:
    text = str(kind)
    return text if len(text) <= 60 else f"{text[:57]}..."
