"""The process preference model (PPM) as a Scorer: in this process, or on a server."""
