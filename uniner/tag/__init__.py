"""Passages to entities: the student tags a corpus."""
