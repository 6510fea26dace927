"""Run the annotate stage: python -m jobs.annotate CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("annotate")
