"""Model servers that are started here and end with whoever asked for them: vLLM."""

from rstar_math.models.servers.launch import Served, serving_vllm
from rstar_math.models.servers.shelf import keeping, put_away

__all__ = ["Served", "keeping", "put_away", "serving_vllm"]
