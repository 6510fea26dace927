"""Train the student on conversations."""

CHECKPOINTS = "checkpoints"
"""The checkpoints' folder in the stage's folder; it is deleted once the student is written."""
SAMPLES = "samples.parquet"
"""The tokenised conversations, in the stage's folder; deleted with the checkpoints."""
OUT_OF_MEMORY = "out-of-memory.json"
"""The note of a worker whose GPU is out of memory, in the stage's folder."""
