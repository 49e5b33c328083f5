"""Renders prompts and steps. Search, training, PPM and deployment all render here, so that a model
is prompted as it was trained.

A `Renderer` joins three choices: the prompt set, the step format, and how the prompt is sent:

- `completion`: the worked examples and the question as plain text (base models);
- `chat`, rendered here: the model's chat template, as text that ends within the assistant's answer;
- `chat`, rendered by the server: messages, the last one a partly written answer to be continued.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from rstar_math.errors import InputError
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.grammar import FENCED, FORMATS, KINDS, TAGS, StepFormat
from rstar_math.prompts.prompt_sets import TRAINED, PromptSet, load_prompt_set
from rstar_math.types import Question, Step

Mode = Literal["completion", "template", "messages"]
"""How a prompt is sent: as plain text, as text made by the chat template, or as messages."""
DEFAULT_COMPLETION_SET, DEFAULT_CHAT_SET = "easy", "grade-school"
THINK, END_OF_THINKING = "<think>\n", "\n</think>\n\n"


class ChatPrompt(str):
    """A conversation for a server that renders the chat template itself.

    As a string it is the plain text of the conversation, so that it can be hashed, compared and
    shown like any other prompt.
    """

    messages: tuple[tuple[str, str], ...]
    """(role, content), the last one the user's."""
    partial: str
    """The beginning of the assistant's answer, to be continued."""

    def __new__(cls, messages: Sequence[tuple[str, str]], partial: str) -> "ChatPrompt":
        text = "".join(f"{role}: {content}\n\n" for role, content in messages)
        prompt = super().__new__(cls, f"{text}assistant: {partial}")
        prompt.messages, prompt.partial = tuple(messages), partial
        return prompt

    def __reduce__(self) -> tuple[type["ChatPrompt"], tuple[object, ...]]:
        return ChatPrompt, (self.messages, self.partial)


@dataclass(frozen=True, slots=True)
class Renderer:
    """Renders questions and steps for one model."""

    prompt_set: PromptSet
    format: StepFormat
    mode: Mode = "completion"
    template: ChatTemplate | None = field(default=None, repr=False)
    """The model's chat template, for the mode "template"."""
    thinking: bool = False
    """Whether the model may reason freely before its first step."""

    def before(self, question: Question) -> str:
        """All text before the solution, as it stands in a prompt that this process renders."""
        text = question.text.strip()
        if self.mode == "completion":
            return f"{self._examples()}Question: {text}\n"
        if self.mode == "template" and self.template is not None:
            frame = self.template.frame(self._turns(), thinking=self.thinking)
            return frame.prompt(text)
        return str(ChatPrompt((*self._turns(), ("user", text)), ""))

    def prompt(self, question: Question, steps: Sequence[Step], partial: str | None = None) -> str:
        """The prompt for the next step: a plain string, or a `ChatPrompt`. `partial` takes the
        place of the text that leads into the next step."""
        lead = self.format.opening(steps) if partial is None else partial
        answer = self.solution(steps) + lead
        if self.mode == "messages":
            return ChatPrompt((*self._turns(), ("user", question.text.strip())), answer)
        return self.before(question) + answer

    def solution(self, steps: Sequence[Step]) -> str:
        """A solution's text: what the model wrote, and what its programs printed.

        Raises `InputError` for steps of another kind (rStar's actions).
        """
        require_code_steps(steps)
        thoughts = steps[0].reasoning if steps else ""
        start = f"{THINK}{thoughts}{END_OF_THINKING}" if thoughts else ""
        return start + self.format.render(steps)

    @property
    def end_of_turn(self) -> str:
        """What ends a finished answer: the template's end of turn; "" for plain text."""
        if self.mode != "template" or self.template is None:
            return ""
        return self.template.frame(self._turns(), thinking=self.thinking).end_of_turn

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings for one step."""
        return self._with_end(self.format.stops)

    @property
    def block_stops(self) -> tuple[str, ...]:
        """Stop strings for a whole program, or for the answer after its output."""
        return self._with_end(self.format.block_stops)

    @property
    def description(self) -> dict[str, str]:
        """What a checkpoint or a run records of its prompts."""
        mode = "completion" if self.mode == "completion" else "chat"
        return {"prompt": self.prompt_set.name, "format": self.format.name, "mode": mode}

    def _with_end(self, stops: tuple[str, ...]) -> tuple[str, ...]:
        if self.mode == "completion":
            return stops
        chat = tuple(stop for stop in stops if stop != "\nQuestion:")
        end = self.end_of_turn
        return (*chat, end) if end else chat

    def _turns(self) -> tuple[tuple[str, str], ...]:
        """The system message and the worked examples as messages."""
        turns = [("system", self.prompt_set.system)] if self.prompt_set.system else []
        for example in self.prompt_set.examples:
            solution = self.format.render(example.steps)
            turns += [("user", example.problem), ("assistant", solution.rstrip("\n"))]
        return tuple(turns)

    def _examples(self) -> str:
        """The worked examples as text; they never change, so a prefix cache holds them once."""
        parts = []
        for example in self.prompt_set.examples:
            solution = self.format.render(example.steps).rstrip("\n")
            parts.append(f"Question: {example.problem}\n{solution}\n\n")
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Conversation:
    """How messages are sent to one model: `mode` is not "completion"."""

    mode: Mode
    template: ChatTemplate | None = field(default=None, repr=False)
    thinking: bool = False

    def prompt(self, messages: Sequence[tuple[str, str]], partial: str = "") -> str:
        """The prompt of a conversation whose last message is the user's; what is sampled continues
        the assistant's answer after `partial`."""
        if self.template is None:
            return ChatPrompt(messages, partial)
        *before, (_, user) = messages
        return self.template.frame(before, thinking=self.thinking).prompt(user) + partial

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends an answer, beside the end of text."""
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
    """A renderer; "auto" is the set and the format that suit the mode. Raises `ConfigError`."""
    chat = mode != "completion"
    if prompt == "auto":
        prompt = DEFAULT_CHAT_SET if chat else DEFAULT_COMPLETION_SET
    chosen = (FENCED if chat else TAGS) if step_format == "auto" else FORMATS[step_format]
    return Renderer(load_prompt_set(prompt), chosen, mode, template, thinking)


def require_code_steps(steps: Sequence[Step]) -> None:
    """Raise `InputError` for steps that have no text in the step formats."""
    for step in steps:
        if step.kind not in KINDS:
            raise InputError(
                f"A step of kind {step.kind!r} has no training text: only code steps have; "
                "leave out the strategies that solve by rStar's actions or by sub-questions."
            )


PLAIN = Renderer(load_prompt_set(TRAINED), TAGS)
"""Plain text in the format `tags`, without examples."""
