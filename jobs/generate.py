"""Run the generate stage: python -m jobs.generate CONFIG [section.key=value ...]."""

from uniner.job import main

if __name__ == "__main__":
    main("generate")
