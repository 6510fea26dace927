"""Run the generate stage: python -m jobs.generate CONFIG [SETTING]...; the same as `uniner generate`."""

from uniner.cli import main

if __name__ == "__main__":
    main("generate")
