"""Passages to the teacher's annotations."""
