"""List the benchmark's data sets in a terminal: those under the data folder, and where to get the others."""

from rich.console import Console
from rich.table import Table

from uniner.gold.catalogue import BenchmarkDataset, SplitSummary, catalogue, find_splits, summarize_split


def list_datasets(data: str | None, console: Console) -> None:
    """List the benchmark's data sets. Those found are read whole, to show their size beside the paper's.

    Raises:
        UserError: where the data folder cannot be read.
    """
    addresses = find_splits(data) if data else {}
    known = catalogue()
    warnings: list[str] = []
    if addresses:
        title = f"found under {data}; in brackets, where they differ: public copy, paper (- not counted)"
        table = Table(title=title, title_justify="left")
        table.add_column("data set", no_wrap=True)
        table.add_column("layout", overflow="fold")
        for counted in ("passages", "entities", "types"):
            table.add_column(counted, justify="right", overflow="fold")
        table.add_column("file", overflow="fold")
        for name, address in addresses.items():
            split = summarize_split(name, address)
            table.add_row(*_table_row(known[name], split, (data or "").rstrip("/")))
            warnings += filter(None, (split.error, split.warning(known[name]), split.left_out))
        console.print(table)
    for line in warnings:
        console.print(f"warning: {line}", highlight=False, markup=False, soft_wrap=True)
    missing = [dataset for name, dataset in known.items() if name not in addresses]
    folder = f" under {data}" if data else "; set evaluate.data to the folder to search"
    console.print(
        f"{len(addresses)} of {len(known)} data sets found{folder}", highlight=False, soft_wrap=True
    )
    if missing:
        console.print("missing, with licence and source:", highlight=False, soft_wrap=True)
    for dataset in missing:
        groups = f" [{', '.join(dataset.groups)}]" if dataset.groups else ""
        console.print(
            f"  {dataset.name}{groups} ({dataset.domain}; {dataset.licence}): {dataset.source}; "
            f"{_how_to_read(dataset)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _table_row(dataset: BenchmarkDataset, split: SplitSummary, data: str) -> tuple[str, ...]:
    file = split.address.rsplit(data + "/", 1)[-1]
    if split.error:
        return dataset.name, _layout(dataset), "cannot be read", "", "", file
    passages, entities, types = dataset.copy or (None, None, None)
    return (
        dataset.name,
        _layout(dataset),
        _cell(split.passages, passages, dataset.sizes[2]),
        _cell(split.entities, entities),
        _cell(split.types, types, dataset.types),
        file,
    )


def _cell(here: int, *others: int | None) -> str:
    """Return a count, with the others in brackets if one of them differs."""
    if all(other is None or other == here for other in others):
        return f"{here:,}"
    return f"{here:,} ({', '.join(map(_count, others))})"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _layout(dataset: BenchmarkDataset) -> str:
    return "own, converted" if dataset.format == "own" else dataset.format.replace("_", " ")


def _how_to_read(dataset: BenchmarkDataset) -> str:
    """Return how the source's format is read, what to convert, and how it differs from the paper's copy."""
    if dataset.format == "own":
        reading = 'convert it to JSON lines of {"text", "entities"} first'
    elif dataset.convert:
        reading = f"read as {_layout(dataset)}, once converted"
    else:
        reading = f"read as it is ({_layout(dataset)})"
    if dataset.convert:
        reading += f": {dataset.convert}"
    passages, entities, types = dataset.copy or (None, None, None)
    if passages is not None:
        reading += f"; test: {passages:,} passages, {_count(entities)} entities, {types} types"
    reading += f" (the paper's: {dataset.sizes[2]:,} passages, {dataset.types} types)"
    return f"{reading}; {dataset.note}" if dataset.note else reading
