"""Measure ingest and annotate in one table: python -m benchmarks.data (make bench-data), about 10 minutes."""

from benchmarks import annotate, ingest
from benchmarks.table import show

if __name__ == "__main__":
    show([*ingest.measure(), *annotate.measure()])
