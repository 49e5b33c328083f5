"""Model files: checkpoint folders, safetensors and GGUF."""
