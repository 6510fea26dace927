"""Run the stage train-encoder: python -m jobs.train_encoder CONFIG [SETTING]...; the same as `uniner
train-encoder`."""

from uniner.cli import main

if __name__ == "__main__":
    main("train-encoder")
