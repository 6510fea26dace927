"""The models in process."""
