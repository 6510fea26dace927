"""Corpus shards to passages."""
