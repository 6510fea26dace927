"""Run the build stage: python -m jobs.build CONFIG [SETTING]...; the same as `uniner build`."""

from uniner.cli import main

if __name__ == "__main__":
    main("build")
