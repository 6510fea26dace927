"""Run the ingest stage: python -m jobs.ingest CONFIG [section.key=value ...]."""

from uniner.cli import main

if __name__ == "__main__":
    main("ingest")
