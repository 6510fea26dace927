"""Run the evaluate stage: python -m jobs.evaluate CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("evaluate")
