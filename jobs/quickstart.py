"""Run all stages on the corpus that ships: python -m jobs.quickstart; the same as `uniner quickstart`."""

from uniner.cli import main

if __name__ == "__main__":
    main("quickstart")
