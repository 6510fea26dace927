"""Train the student on conversations."""

CHECKPOINTS = "checkpoints"
"""The checkpoints' folder in the stage's folder; it is deleted once the student is written."""
