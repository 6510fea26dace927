"""Run the tag stage: python -m jobs.tag CONFIG [SETTING]...; the same as `uniner tag`."""

from uniner.cli import main

if __name__ == "__main__":
    main("tag")
