"""Run the build stage: python -m jobs.build CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("build")
