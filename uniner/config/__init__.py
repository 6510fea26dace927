"""The config tree."""
