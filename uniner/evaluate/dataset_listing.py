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
    if addresses:
        table = Table(title=f"found under {data} (in brackets: the paper's)", title_justify="left")
        table.add_column("data set", no_wrap=True)
        table.add_column("domain")
        table.add_column("groups")
        table.add_column("test passages", justify="right")
        table.add_column("types", justify="right")
        table.add_column("file", overflow="fold")
        for name, address in addresses.items():
            table.add_row(*_table_row(known[name], summarize_split(name, address), (data or "").rstrip("/")))
        console.print(table)
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
    groups = ", ".join(dataset.groups)
    file = split.address.rsplit(data + "/", 1)[-1]
    if split.error:
        return dataset.name, dataset.domain, groups, "cannot be read", "", split.error
    passages = f"{split.passages:,} ({dataset.sizes[2]:,})"
    return dataset.name, dataset.domain, groups, passages, f"{split.types} ({dataset.types})", file


def _how_to_read(dataset: BenchmarkDataset) -> str:
    """Return how the source's format is read, and how it differs from the paper's copy."""
    if dataset.format == "own":
        reading = 'convert it to JSON lines of {"text", "entities"} first'
    else:
        reading = f"read as it is ({dataset.format.replace('_', ' ')})"
    return f"{reading}; {dataset.note}" if dataset.note else reading
