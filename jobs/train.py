"""Run the train stage: python -m jobs.train CONFIG [SETTING]...; the same as `uniner train`."""

from uniner.cli import main

if __name__ == "__main__":
    main("train")
