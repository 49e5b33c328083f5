"""The process preference model as a scorer: in this process, or behind a server."""
