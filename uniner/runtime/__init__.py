"""All of Ray: connection, chunk pipeline, rate limits, trainer."""
