"""Conversations to the student."""

CHECKPOINTS = "checkpoints"
"""The folder of what training goes on from, in the stage's; it goes once the student stands."""
