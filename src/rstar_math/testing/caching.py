"""A prefix cache as vLLM has one, in numbers only: which part of a prompt a server would find.

Prompts are cut into blocks of tokens (here words); a block is found if it and all before it are
held. What was used longest ago goes first. Not modelled: blocks of sampled text, and that what is
in use is not dropped.
"""

import threading
from collections import OrderedDict


class PromptCache:
    """Holds at most `blocks` blocks of `block` tokens. From any thread."""

    def __init__(self, *, blocks: int = 1024, block: int = 16) -> None:
        self.queried = 0
        """Tokens looked for so far."""
        self.found = 0
        """Of these, those that were held."""
        self._blocks, self._block = blocks, block
        self._held: OrderedDict[int, None] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, prompt: str) -> int:
        """How many of a prompt's tokens were held; all its whole blocks are then."""
        words = prompt.split()
        found, above, missed = 0, 0, False
        with self._lock:
            for at in range(0, len(words) - self._block + 1, self._block):
                above = hash((above, *words[at : at + self._block]))
                missed = missed or above not in self._held
                found += 0 if missed else self._block
                self._held[above] = None
                self._held.move_to_end(above)
            while len(self._held) > self._blocks:
                self._held.popitem(last=False)
            self.queried += len(words)
            self.found += found
        return found

    def metrics(self, running: int) -> str:
        """What vLLM would say of it at /metrics."""
        return (
            "# HELP vllm:num_requests_running Number of requests in model execution batches.\n"
            f'vllm:num_requests_running{{engine="0",model_name="fake"}} {float(running)}\n'
            'vllm:num_requests_waiting{engine="0",model_name="fake"} 0.0\n'
            f'vllm:prefix_cache_queries_total{{engine="0"}} {float(self.queried)}\n'
            f'vllm:prefix_cache_hits_total{{engine="0"}} {float(self.found)}\n'
        )
