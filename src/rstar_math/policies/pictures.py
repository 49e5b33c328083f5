"""Pictures of questions: sent to multimodal models, or transcribed for a model of texts."""

from dataclasses import replace

from rstar_math.concurrency import gather
from rstar_math.errors import ConfigError, ModelError
from rstar_math.prompts.rendering import ChatPrompt
from rstar_math.protocols import Completer
from rstar_math.types import Image, Question

TRANSCRIBE = (
    "Transcribe this picture for somebody who cannot see it. Copy all text, numbers, formulas, "
    "labels and table cells exactly, and describe shapes, their positions and sizes. Do not solve "
    "anything."
)
MAX_TOKENS = 600
"""Maximum number of tokens of a transcription."""


def accepts_images(model: object) -> bool:
    """Whether a Completer can send pictures; its server may still refuse them."""
    return bool(getattr(model, "accepts_images", False))


def require_images(model: object) -> None:
    """Raise `ConfigError` if a Completer cannot send pictures."""
    if not accepts_images(model):
        raise ConfigError(
            "The problem has a picture, but this model reads only text; use the server of a "
            "multimodal model, or a second model that transcribes: --set problems.describe=MODEL."
        )


async def transcribe(model: Completer, question: Question) -> Question:
    """The question with a transcription of each picture instead of the pictures.

    Raises `ModelError`, and `ConfigError` if the model cannot send pictures.
    """
    require_images(model)

    async def read(image: Image) -> str:
        prompt = ChatPrompt([("user", TRANSCRIBE)], "", (image,))
        found = await model.complete(
            prompt, n=1, stop=(), max_tokens=MAX_TOKENS, temperature=0.0, seed=0
        )
        text = found[0].text.strip() if found else ""
        if not text:
            raise ModelError(
                f"The model of problems.describe returned no text for a picture of "
                f"{question.id!r}; use another model."
            )
        return text

    texts = await gather(read(image) for image in question.images)
    parts = [f"Picture {number}:\n{text}" for number, text in enumerate(texts, 1)]
    return replace(question, text="\n\n".join([question.text.strip(), *parts]), images=())
