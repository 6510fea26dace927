"""Run the evaluate stage: python -m jobs.evaluate CONFIG [SETTING]...; the same as `uniner evaluate`."""

from uniner.cli import main

if __name__ == "__main__":
    main("evaluate")
