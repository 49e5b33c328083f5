"""Files of models: checkpoint folders, safetensors and GGUF."""
