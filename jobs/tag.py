"""Run the tag stage: python -m jobs.tag CONFIG [SECTION.KEY=VALUE]...; the same as `uniner tag`."""

from uniner.cli import main

if __name__ == "__main__":
    main("tag")
