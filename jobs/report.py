"""Run the report stage: python -m jobs.report CONFIG [SECTION.KEY=VALUE]...; the same as `uniner report`."""

from uniner.cli import main

if __name__ == "__main__":
    main("report")
