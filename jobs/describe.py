"""Run the describe stage: python -m jobs.describe CONFIG [SETTING]...; the same as `uniner describe`."""

from uniner.cli import main

if __name__ == "__main__":
    main("describe")
