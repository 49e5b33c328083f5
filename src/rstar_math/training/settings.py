"""Options of training. Defaults are the papers'; "code" is rStar-Math's public code and its
README."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rstar_math.config.sections import Section
from rstar_math.training.batches import Limits


class Batches(Section):
    """How examples go through the model: `batch` of them to a step, `micro` at once."""

    mode: Literal["auto", "chat", "completion"] = "auto"
    """How prompts are written: by the base model's chat template ("chat"), or as plain text; "auto"
    is chat where the base has a template. A trained model is then asked in the same way."""
    batch_size: int
    """Examples to a step of the optimiser."""
    micro_batch_size: int
    """Examples computed at once."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Tokens computed at once, padding counted, in place of `micro`: the examples of a step are
    sorted by length and packed. A longer example is computed alone. This bounds memory and does
    not change results."""
    lora_rank: int = Field(0, ge=0)
    """Rank of a LoRA adapter; 0 trains all weights (as the paper does)."""
    base_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """With an adapter: the type in which the frozen base is held. auto: bfloat16 if the base is
    stored in 16 bits or quantized, the hardware multiplies it, and `bf16` is on. The adapter is
    always float32; without one all weights are."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Norm to which the gradient of a whole step is scaled down if it is larger (transformers'
    default). One that is infinite or not a number ends the training with an error."""
    progress_s: float = Field(30, ge=0, le=60)
    """Seconds between lines of progress; 0 writes one for each step."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.batch_size > self.micro_batch_size and self.batch_size % self.micro_batch_size:
            fits = max(n for n in range(1, self.micro_batch_size) if self.batch_size % n == 0)
            raise ValueError(
                f"batch_size = {self.batch_size} is no multiple of micro_batch_size = "
                f"{self.micro_batch_size}; set micro_batch_size = {fits} or another batch_size"
            )
        if self.base_dtype == "bfloat16" and not self.lora_rank:
            raise ValueError(
                "base_dtype = bfloat16 needs an adapter, since weights that are trained in "
                "bfloat16 lose small updates; set lora_rank = 16"
            )
        return self

    def limits(self, examples: int) -> Limits:
        """What is computed at once where there are so many examples in all."""
        return Limits(self.at_once(examples), self.micro_batch_tokens)

    def step_size(self, examples: int, processes: int = 1) -> int:
        """Examples to a step of the optimizer for each of so many processes."""
        micro = self.at_once(examples)
        return micro * max(1, min(self.batch_size, examples) // micro // processes)

    def recorded(self) -> dict[str, object]:
        """The settings that decide what comes out, as they are written into a checkpoint."""
        return self.model_dump(mode="json", exclude={"progress_s"})

    def at_once(self, examples: int) -> int:
        """Examples computed at once where there are so many in all."""
        return min(self.micro_batch_size, self.batch_size, examples)


class PolicyTraining(Batches):
    """Fine-tuning of the policy on solutions (rStar-Math, arXiv:2501.04519, appendix A.1)."""

    learning_rate: float = Field(7e-6, gt=0)
    """Highest learning rate; falls linearly to 0 (code: 7e-6)."""
    epochs: float = Field(2, gt=0)
    """Times each solution is seen (code: 2)."""
    batch_size: int = Field(128, ge=1)
    """Solutions to one step of the optimiser (code: 128); fewer where there are fewer."""
    micro_batch_size: int = Field(8, ge=1)
    """Solutions of like length that stand together in a step, and that are computed at once where
    `micro_batch_tokens` is not set. Of a few hundred solutions,
    those of one length are often of one kind, and 1 or 2 learn better (docs/lab-notes.md)."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW (code: 0.1)."""
    max_tokens: int = Field(2048, ge=16)
    """Longest solution with its question, in tokens (code: 2048; paper: 4096); longer ones are
    left out."""
    lora_alpha: float = Field(32, gt=0)
    """Scale of the adapter, over its rank."""
    matrices_only: bool = False
    """Without an adapter: train the matrices of attention and MLP and leave embeddings and norms as
    they are, so that what was learned can be cut to an adapter afterwards (rstar deploy)."""
    packing: bool = False
    """On a GPU: several solutions in one row without padding; `micro` rows are computed at once."""
    gradient_checkpointing: bool = False
    """Less memory for a third more time (for large models)."""
    bf16: bool = True
    """Matrix products in bfloat16. Trained weights are float32 all the same."""
    save_steps: int = Field(50, ge=1)
    """Steps between checkpoints to go on from."""
    max_steps: int | None = Field(None, ge=1)
    """End after so many steps."""
    seed: int = 42
    """Seed of the order (code: 42)."""


class PreferenceTraining(Batches):
    """Training of a scorer (rStar-Math, arXiv:2501.04519, section 3.3 and appendix A.1)."""

    objective: Literal["ppm", "orm", "pqm"] = "ppm"
    """What is learned: which of two steps is better (Bradley-Terry), whether a whole solution is
    right (cross-entropy), or the Q of a step (squared error)."""
    learning_rate: float = Field(7e-6, gt=0)
    """Highest learning rate; falls linearly to 0 (code: 7e-6)."""
    epochs: float = Field(1, gt=0)
    """Times each pair is seen (paper: 1; code: 2)."""
    batch_size: int = Field(128, ge=1)
    """Nodes whose pairs make one step of the optimiser: some 512 pairs, with 4 to a node (code: 512
    pairs); fewer where there are fewer."""
    micro_batch_size: int = Field(4, ge=1)
    """Nodes of like length that stand together in a step, and that are computed at once where
    `micro_batch_tokens` is not set."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW (code: 0.1)."""
    max_tokens: int = Field(2048, ge=16)
    """Longest side of a pair with its question, in tokens (code: 2048); longer are left out."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of the problems that is kept for measuring (code: 0.05, of pairs)."""
    share_prefixes: bool = True
    """Whether what the sides of a node's pairs have in common is computed once. Same results."""
    lora_alpha: float = Field(32, gt=0)
    """Scale of the adapter, over its rank."""
    gradient_checkpointing: bool = False
    """Less memory for a third more time (code: on)."""
    bf16: bool = True
    """Matrix products in bfloat16. Trained weights are float32 all the same."""
    save_steps: int = Field(50, ge=1)
    """Steps between checkpoints to go on from (code: 750)."""
    max_steps: int | None = Field(None, ge=1)
    """End after so many steps."""
    seed: int = 42
    """Seed of the order and of who is held out (code: 42)."""


class ProbeTraining(Section):
    """Training of a head on the policy's frozen hidden states."""

    mode: Literal["auto", "chat", "completion"] = "auto"
    """How prompts are written, as for the other trainings."""
    layers: tuple[int, ...] = (-1,)
    """Layers read, side by side: 0 is the embedding, -1 the last."""
    hidden: int = Field(0, ge=0)
    """Units of a hidden layer; 0 is a linear probe."""
    epochs: int = Field(200, ge=1)
    """Passes over all pairs at once."""
    learning_rate: float = Field(1e-2, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW; the guard against learning the pairs by heart."""
    max_tokens: int = Field(2048, ge=16)
    """Longest side of a pair with its question, in tokens."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of the problems that is kept for measuring."""
    seed: int = 42
    """Seed of the head and of who is held out."""
