"""Conversations to the student."""
