"""Run the ingest stage: python -m jobs.ingest CONFIG [SETTING]...; the same as `uniner ingest`."""

from uniner.cli import main

if __name__ == "__main__":
    main("ingest")
