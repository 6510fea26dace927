"""Run the build stage: python -m jobs.build CONFIG [SECTION.KEY=VALUE]...; the same as `uniner build`."""

from uniner.cli import main

if __name__ == "__main__":
    main("build")
