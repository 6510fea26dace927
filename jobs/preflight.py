"""Check what a run needs: python -m jobs.preflight CONFIG [SETTING]...; the same as `uniner preflight`."""

from uniner.cli import main

if __name__ == "__main__":
    main("preflight")
