"""Run the tag stage: python -m jobs.tag CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("tag")
