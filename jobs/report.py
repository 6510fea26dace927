"""Run the report stage: python -m jobs.report CONFIG [SETTING]...; the same as `uniner report`."""

from uniner.cli import main

if __name__ == "__main__":
    main("report")
