"""Write the report of a run: python -m jobs.report CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("report")
