"""The review loop: choose tagged passages for people to correct, and read their corrections as gold data."""
