"""Run all stages in order: python -m jobs.pipeline CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main()
