"""The catalogue in a terminal: what lies under the data folder, what does not, and where to get it."""

from rich.console import Console
from rich.table import Table

from uniner.gold.catalogue import BenchmarkDataset, SplitSummary, catalogue, find_splits, summarize_split


def show(data: str | None, console: Console) -> None:
    """List the benchmark's data sets; what is found is read whole and its size set beside the paper's.

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
            table.add_row(
                *_found_cells(known[name], summarize_split(name, address), (data or "").rstrip("/"))
            )
        console.print(table)
    missing = [one for name, one in known.items() if name not in addresses]
    console.print(
        f"{len(addresses)} of {len(known)} data sets found"
        + (f" under {data}" if data else "; evaluate.data names the folder to look in"),
        highlight=False,
        soft_wrap=True,
    )
    if missing:
        console.print("missing, with licence, and where to get them:", highlight=False, soft_wrap=True)
    for one in missing:
        console.print(
            f"  {one.name}{_groups(one)} ({one.domain}; {one.licence}): {one.source}; {_reading(one)}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _found_cells(one: BenchmarkDataset, found: SplitSummary, data: str) -> tuple[str, ...]:
    groups = ", ".join(one.groups)
    file = found.address.rsplit(data + "/", 1)[-1]
    if found.error:
        return one.name, one.domain, groups, "cannot be read", "", found.error
    passages = f"{found.passages:,} ({one.sizes[2]:,})"
    return one.name, one.domain, groups, passages, f"{found.types} ({one.types})", file


def _groups(one: BenchmarkDataset) -> str:
    return f" [{', '.join(one.groups)}]" if one.groups else ""


def _reading(one: BenchmarkDataset) -> str:
    """Say how the source is read, and what differs from the paper's copy."""
    if one.format == "own":
        how = 'write it as JSON lines of {"text", "entities"} first'
    else:
        how = f"read as it is ({one.format.replace('_', ' ')})"
    return f"{how}; {one.note}" if one.note else how
