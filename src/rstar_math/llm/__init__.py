"""Language models: one client for OpenAI-compatible servers, and models in this process."""
