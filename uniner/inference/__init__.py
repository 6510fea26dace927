"""The models that run in this process, and the questions they are asked."""
