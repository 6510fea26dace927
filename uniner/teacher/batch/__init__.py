"""The teacher through the Batch API of an OpenAI-compatible server."""
