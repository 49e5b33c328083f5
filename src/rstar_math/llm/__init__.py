"""Language models: a client for OpenAI-compatible servers, and models in this process."""
