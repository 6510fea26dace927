"""Run all stages in order: python -m jobs.pipeline CONFIG [SECTION.KEY=VALUE]...; the same as `uniner pipeline`."""

from uniner.cli import main

if __name__ == "__main__":
    main("pipeline")
