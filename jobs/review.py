"""Run the review loop: python -m jobs.review export|import CONFIG ...; the same as `uniner review`."""

from uniner.cli import main

if __name__ == "__main__":
    main("review")
