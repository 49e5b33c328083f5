"""Training options. Defaults come from the papers; "code" is rStar-Math's public code and its
README."""

from typing import Literal, Self

from pydantic import Field, model_validator

from rstar_math.config.sections import Section
from rstar_math.training.batches import MicroBatchLimits


class TrainerSettings(Section):
    """Options shared by the policy trainer and the scorer trainer.

    An optimizer step processes `batch_size` examples in micro-batches.
    """

    mode: Literal["auto", "chat", "completion"] = "auto"
    """Prompt rendering: "chat" uses the base model's chat template, "completion" plain text. "auto"
    is chat if the base has a template. The trained model is prompted the same way."""
    batch_size: int
    """Examples per optimizer step."""
    micro_batch_size: int
    """Examples per micro-batch."""
    micro_batch_tokens: int | None = Field(None, ge=16)
    """Maximum number of tokens per micro-batch, padding included; replaces `micro_batch_size`. The
    examples of a step are sorted by length and packed; a longer example runs alone. This bounds
    memory and does not change results."""
    lora_rank: int = Field(0, ge=0)
    """Rank of the LoRA adapter. 0: train all weights (paper)."""
    base_dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the frozen base weights under an adapter. auto: bfloat16 if `bf16` is on, the
    hardware supports it, and the base is stored in 16 bits or quantized. Trained weights are always
    float32."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Maximum gradient norm of an optimizer step; larger gradients are scaled down (transformers'
    default). A norm that is infinite or NaN ends the training with an error."""
    progress_s: float = Field(30, ge=0, le=60)
    """Seconds between progress lines. 0: one line per step."""

    @model_validator(mode="after")
    def _validate(self) -> Self:
        if self.batch_size > self.micro_batch_size and self.batch_size % self.micro_batch_size:
            divisor = max(n for n in range(1, self.micro_batch_size) if self.batch_size % n == 0)
            raise ValueError(
                f"batch_size = {self.batch_size} is not a multiple of micro_batch_size = "
                f"{self.micro_batch_size}; set micro_batch_size = {divisor} or another batch_size"
            )
        if self.base_dtype == "bfloat16" and not self.lora_rank:
            raise ValueError(
                "base_dtype = bfloat16 requires an adapter, because weights trained in bfloat16 "
                "lose small updates; set lora_rank = 16"
            )
        return self

    def limits(self, examples: int) -> MicroBatchLimits:
        """The limits of a micro-batch, for a data set of `examples` examples."""
        return MicroBatchLimits(self.examples_per_micro_batch(examples), self.micro_batch_tokens)

    def step_size(self, examples: int, processes: int = 1) -> int:
        """Examples per optimizer step and process, for a data set of `examples` examples."""
        micro = self.examples_per_micro_batch(examples)
        return micro * max(1, min(self.batch_size, examples) // micro // processes)

    def recorded(self) -> dict[str, object]:
        """The settings that affect the result, as written into a checkpoint."""
        return self.model_dump(mode="json", exclude={"progress_s"})

    def examples_per_micro_batch(self, examples: int) -> int:
        """Examples per micro-batch, for a data set of `examples` examples."""
        return min(self.micro_batch_size, self.batch_size, examples)


class PolicyTraining(TrainerSettings):
    """Fine-tuning of the policy on solutions (rStar-Math, arXiv:2501.04519, appendix A.1)."""

    learning_rate: float = Field(7e-6, gt=0)
    """Initial learning rate; decays linearly to 0 (code: 7e-6)."""
    epochs: float = Field(2, gt=0)
    """Number of passes over the solutions (code: 2)."""
    batch_size: int = Field(128, ge=1)
    """Solutions per optimizer step (code: 128). With fewer solutions, a step has all of them."""
    micro_batch_size: int = Field(8, ge=1)
    """Solutions per micro-batch, unless `micro_batch_tokens` is set. A step consists of groups of
    this many solutions of similar length. For a few hundred solutions, 1 or 2 learn better, because
    solutions of one length are often of one kind (docs/lab-notes.md)."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW (code: 0.1)."""
    max_tokens: int = Field(2048, ge=16)
    """Maximum length of a solution with its question, in tokens (code: 2048; paper: 4096). Longer
    ones are left out."""
    lora_alpha: float = Field(32, gt=0)
    """LoRA alpha: the adapter is scaled by lora_alpha / lora_rank."""
    matrices_only: bool = False
    """Without an adapter: train only the attention and MLP matrices and freeze embeddings and
    norms. The change can then be exported as an adapter (rstar deploy)."""
    packing: bool = False
    """On a GPU: pack several solutions into one row without padding. A micro-batch has
    `micro_batch_size` rows."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    bf16: bool = True
    """Compute matrix products in bfloat16. Trained weights stay float32."""
    save_steps: int = Field(50, ge=1)
    """Optimizer steps between checkpoints."""
    max_steps: int | None = Field(None, ge=1)
    """Maximum number of optimizer steps. Default: no maximum."""
    seed: int = 42
    """Seed of the example order (code: 42)."""


class PreferenceTraining(TrainerSettings):
    """Training of a scorer (rStar-Math, arXiv:2501.04519, section 3.3 and appendix A.1)."""

    objective: Literal["ppm", "orm", "pqm"] = "ppm"
    """Training objective. ppm: which of two steps is better (Bradley-Terry). orm: whether a whole
    solution is right (cross-entropy). pqm: the Q of a step (squared error)."""
    learning_rate: float = Field(7e-6, gt=0)
    """Initial learning rate; decays linearly to 0 (code: 7e-6)."""
    epochs: float = Field(1, gt=0)
    """Number of passes over the pairs (paper: 1; code: 2)."""
    batch_size: int = Field(128, ge=1)
    """Nodes per optimizer step. A step trains on all pairs of its nodes, about 512 with 4 pairs per
    node (code: 512 pairs). With fewer nodes, a step has all of them."""
    micro_batch_size: int = Field(4, ge=1)
    """Nodes per micro-batch, unless `micro_batch_tokens` is set. A step consists of groups of this
    many nodes of similar length."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW (code: 0.1)."""
    max_tokens: int = Field(2048, ge=16)
    """Maximum length of each side of a pair with its question, in tokens (code: 2048). Longer ones
    are left out."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of the problems held out for evaluation (code: 0.05, of the pairs)."""
    share_prefixes: bool = True
    """Compute the prefix that the pairs of a node share only once. Does not change results."""
    lora_alpha: float = Field(32, gt=0)
    """LoRA alpha: the adapter is scaled by lora_alpha / lora_rank."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, a third more time (code: on)."""
    bf16: bool = True
    """Compute matrix products in bfloat16. Trained weights stay float32."""
    save_steps: int = Field(50, ge=1)
    """Optimizer steps between checkpoints (code: 750)."""
    max_steps: int | None = Field(None, ge=1)
    """Maximum number of optimizer steps. Default: no maximum."""
    seed: int = 42
    """Seed of the example order and of the held-out split (code: 42)."""


class ProbeTraining(Section):
    """Training of a probe: a value head on the policy's frozen hidden states."""

    mode: Literal["auto", "chat", "completion"] = "auto"
    """Prompt rendering: "chat" uses the base model's chat template, "completion" plain text. "auto"
    is chat if the base has a template."""
    layers: tuple[int, ...] = (-1,)
    """Layers whose hidden states are concatenated as input. 0 is the embedding, -1 the last."""
    hidden: int = Field(0, ge=0)
    """Units of the probe's hidden layer. 0: a linear probe."""
    epochs: int = Field(200, ge=1)
    """Number of passes over the pairs. Each pass is one optimizer step on all pairs."""
    learning_rate: float = Field(1e-2, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(0.1, ge=0)
    """Weight decay of AdamW. It limits overfitting."""
    max_tokens: int = Field(2048, ge=16)
    """Maximum length of each side of a pair with its question, in tokens. Longer ones are left
    out."""
    held_out: float = Field(0.05, gt=0, lt=1)
    """Share of the problems held out for evaluation."""
    seed: int = 42
    """Seed of the head's initial weights and of the held-out split."""
