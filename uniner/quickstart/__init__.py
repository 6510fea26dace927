"""The embedded defaults: a made-up corpus, a recorded teacher and a nano base model."""
