"""Renders prompts and solutions.

Search, training, the PPM and deployment all use this module, so a model is prompted exactly as it
was trained. A `Renderer` combines a prompt set, a step format and a mode:

- `completion`: the worked examples and the question as plain text (for base models);
- `template`: the model's chat template, rendered in this process up to the partial answer;
- `messages`: chat messages for the server; the last is a partial answer to be continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

from rstar_math.errors import InputError
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.grammar import CODE_STEP_KINDS, FORMATS, TAGS, StepFormat
from rstar_math.prompts.prompt_sets import TRAINED, PromptSet, load_prompt_set
from rstar_math.tasks import Kind
from rstar_math.types import Image, Question, Step

Mode = Literal["completion", "template", "messages"]
"""How a prompt is sent: as plain text, as rendered chat template, or as messages."""
DEFAULT_COMPLETION_SET, DEFAULT_CHAT_SET = "easy", "grade-school"
KIND_SETS = {Kind.CODE: "code", Kind.CHOICE: "choice", Kind.TEXT: "choice"}
"""Prompt sets of other problems than mathematical ones."""
MATH_SETS = ("auto", "easy", "grade-school", "competition")
"""Prompt sets that are only for mathematical problems."""
START_OF_THINKING, END_OF_THINKING = "<think>\n", "\n</think>\n\n"


class ChatPrompt(str):
    """A conversation for a server that renders the chat template itself.

    As a string it is the plain text of the conversation. It can be hashed, compared and displayed
    like any other prompt.
    """

    messages: tuple[tuple[str, str], ...]
    """(role, content); the last message is the user's."""
    partial: str
    """The beginning of the assistant's answer, which the server continues."""
    images: tuple[Image, ...]
    """Pictures of the last message. The plain text names each by its hash."""

    def __new__(
        cls, messages: Sequence[tuple[str, str]], partial: str, images: Sequence[Image] = ()
    ) -> "ChatPrompt":
        text = "".join(f"{role}: {content}\n\n" for role, content in messages)
        pictures = "".join(f"[picture {sha256(image.data).hexdigest()}]\n" for image in images)
        prompt = super().__new__(cls, f"{text}{pictures}assistant: {partial}")
        prompt.messages, prompt.partial = tuple(messages), partial
        prompt.images = tuple(images)
        return prompt

    def __reduce__(self) -> tuple[type["ChatPrompt"], tuple[object, ...]]:
        return ChatPrompt, (self.messages, self.partial, self.images)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders questions and steps for one model."""

    prompt_set: PromptSet
    format: StepFormat
    mode: Mode = "completion"
    template: ChatTemplate | None = field(default=None, repr=False)
    """The model's chat template; required for the mode "template"."""
    thinking: bool = False
    """Whether the model may write free-form reasoning before its first step."""

    def question_prompt(self, question: Question) -> str:
        """Return all text before the solution."""
        text = question.shown
        if self.mode == "completion":
            return f"{self._examples()}Question: {text}\n"
        if self.mode == "template" and self.template is not None:
            frame = self.template.frame(self._turns(), thinking=self.thinking)
            return frame.prompt(text)
        return str(ChatPrompt((*self._turns(), ("user", text)), ""))

    def prompt(self, question: Question, steps: Sequence[Step], partial: str | None = None) -> str:
        """Return the prompt for the next step: a plain string, or a `ChatPrompt`.

        `partial` replaces the default text that opens the next step.
        """
        opening = self.format.opening(steps) if partial is None else partial
        answer = self.solution(steps) + opening
        if self.mode == "messages":
            messages = (*self._turns(), ("user", question.shown))
            return ChatPrompt(messages, answer, question.images)
        return self.question_prompt(question) + answer

    def solution(self, steps: Sequence[Step]) -> str:
        """Return the text of a solution: the model's text and the output of its programs.

        Raises `InputError` for steps that are not code steps, such as rStar's actions.
        """
        require_code_steps(steps)
        reasoning = steps[0].reasoning if steps else ""
        thinking = f"{START_OF_THINKING}{reasoning}{END_OF_THINKING}" if reasoning else ""
        return thinking + self.format.render(steps)

    @property
    def end_of_turn(self) -> str:
        """The template's end-of-turn token, which ends an answer; "" for plain text."""
        if self.mode != "template" or self.template is None:
            return ""
        return self.template.frame(self._turns(), thinking=self.thinking).end_of_turn

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings for sampling one step."""
        return self._chat_stops(self.format.stops)

    @property
    def block_stops(self) -> tuple[str, ...]:
        """Stop strings for sampling a whole program, or the answer after its output."""
        return self._chat_stops(self.format.block_stops)

    @property
    def description(self) -> dict[str, str]:
        """The prompt settings that a checkpoint or a run records."""
        mode = "completion" if self.mode == "completion" else "chat"
        return {"prompt": self.prompt_set.name, "format": self.format.name, "mode": mode}

    def _chat_stops(self, stops: tuple[str, ...]) -> tuple[str, ...]:
        if self.mode == "completion":
            return stops
        chat_stops = tuple(stop for stop in stops if stop != "\nQuestion:")
        return (*chat_stops, self.end_of_turn) if self.end_of_turn else chat_stops

    def _turns(self) -> tuple[tuple[str, str], ...]:
        """Return the system message and the worked examples as messages."""
        turns = [("system", self.prompt_set.system)] if self.prompt_set.system else []
        for example in self.prompt_set.examples:
            solution = self.format.render(example.steps)
            turns += [("user", example.problem), ("assistant", solution.rstrip("\n"))]
        return tuple(turns)

    def _examples(self) -> str:
        """Return the worked examples as text.

        They are a constant prefix of all prompts, so a prefix cache stores them once.
        """
        parts = []
        for example in self.prompt_set.examples:
            solution = self.format.render(example.steps).rstrip("\n")
            parts.append(f"Question: {example.problem}\n{solution}\n\n")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Conversation:
    """How messages are sent to one model. `mode` is "template" or "messages"."""

    mode: Mode
    template: ChatTemplate | None = field(default=None, repr=False)
    thinking: bool = False

    def prompt(self, messages: Sequence[tuple[str, str]], partial: str = "") -> str:
        """Return the prompt of a conversation whose last message is the user's.

        The model continues the assistant's answer after `partial`.
        """
        if self.template is None:
            return ChatPrompt(messages, partial)
        *earlier, (_, user) = messages
        return self.template.frame(earlier, thinking=self.thinking).prompt(user) + partial

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings that end an answer, besides the end-of-text token."""
        if self.template is None:
            return ()
        return (self.template.frame((), thinking=self.thinking).end_of_turn,)


def make_renderer(
    *,
    prompt: str = "auto",
    step_format: str = "auto",
    mode: Mode = "completion",
    template: ChatTemplate | None = None,
    thinking: bool = False,
) -> Renderer:
    """Return a renderer. "auto" selects the prompt set and step format for the mode.

    Raises `ConfigError` for an unknown or invalid prompt set.
    """
    chat = mode != "completion"
    if prompt == "auto":
        prompt = DEFAULT_CHAT_SET if chat else DEFAULT_COMPLETION_SET
    if step_format == "auto":
        step_format = "fenced" if chat else "tags"
    return Renderer(load_prompt_set(prompt), FORMATS[step_format], mode, template, thinking)


def require_code_steps(steps: Sequence[Step]) -> None:
    """Raise `InputError` unless all steps are code steps, which the step formats can render."""
    for step in steps:
        if step.kind not in CODE_STEP_KINDS:
            raise InputError(
                f"A step of kind {step.kind!r} has no training text, because it is not a code "
                "step; leave out strategies that use rStar's actions or sub-questions."
            )


PLAIN = Renderer(load_prompt_set(TRAINED), TAGS)
"""Plain text in the format `tags`, without worked examples."""
