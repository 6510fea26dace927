"""Run all stages in order: python -m jobs.pipeline CONFIG [SETTING]...; the same as `uniner pipeline`."""

from uniner.cli import main

if __name__ == "__main__":
    main("pipeline")
