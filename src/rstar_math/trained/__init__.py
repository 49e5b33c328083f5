"""What `rstar evolve laptop` taught the embedded model: LoRA adapters of SmolLM2-135M-Instruct as
GGUF files. How they were made and what they can do is in MODEL_CARD.md beside them."""
