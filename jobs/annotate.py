"""Run the annotate stage: python -m jobs.annotate CONFIG [SETTING]...; the same as `uniner annotate`."""

from uniner.cli import main

if __name__ == "__main__":
    main("annotate")
