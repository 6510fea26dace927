"""Annotations to conversations."""
