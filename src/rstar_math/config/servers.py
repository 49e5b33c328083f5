"""The knobs of the model servers that are started here."""

from pydantic import Field

from rstar_math.config.section import Section

VLLM = "vllm:"
"""How the address of a checkpoint begins that a server is started for."""


class ServersConfig(Section):
    """The vLLM servers that are started for vllm:FOLDER, and end when they are not needed."""

    command: tuple[str, ...] | None = None
    """The beginning of the command line, for a vLLM in another virtual environment; by default what
    the environment variable RSTAR_VLLM says, else "vllm serve"."""
    options: tuple[str, ...] = ()
    """Further options of the policy's servers that may change results, as --dtype or
    --quantization; a run goes on only with the same."""
    machine: tuple[str, ...] = ()
    """Further options of the policy's servers that fit them to a machine, as
    --gpu-memory-utilization or --max-num-seqs."""
    ppm: tuple[str, ...] = ()
    """Further options of the preference model's server."""
    adapters: dict[str, str] = Field(default_factory=dict)
    """LoRA adapters (folders in the layout of PEFT) that the policy's servers load, by the names
    that model.name chooses among."""
    replicas: int = Field(1, ge=1, le=256)
    """Servers of the policy, if no `gpus` are named."""
    gpus: tuple[str, ...] = ()
    """The GPUs of each of the policy's servers, as CUDA_VISIBLE_DEVICES has them: ["0", "1"] is two
    servers, ["0,1"] is one that splits the model (tensor parallel)."""
    ppm_gpus: str | None = None
    """The GPUs of the preference model's server."""
    start_s: float = Field(1200.0, gt=0)
    """Longest time for a server to load its model and answer."""
    logs: str | None = None
    """Folder for the servers' logs; by default the cache folder, which keeps those of servers that
    failed."""

    @property
    def count(self) -> int:
        """How many servers of the policy there are."""
        return len(self.gpus) or self.replicas
