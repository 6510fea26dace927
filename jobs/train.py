"""Run the train stage: python -m jobs.train CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("train")
