"""Run the generate stage: python -m jobs.generate CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("generate")
