r"""Step formats: code-augmented chain of thought as text.

Source: rStar-Math, arXiv:2501.04519, section 3.2.

A solution is Python code whose comments are the thoughts, split into steps; then the program's
output; then a boxed answer. There are two formats.

`fenced` is the Markdown that code models write without training. A step ends where the next comment
starts at the left margin, so the model needs no special marks:

    ```python
    # Half of the April number was sold in May.
    may = 48 / 2
    # Add both months.
    print(48 + may)
    ```
    ```output
    72.0
    ```
    Natalia sold \boxed{72} clips.

`tags` ends each step with a mark:

    <code>
    # Half of the April number was sold in May.
    may = 48 / 2
    <step/>
    # Add both months and print the total.
    print(48 + may)
    <code/>
    <output>
    72.0
    </output>
    Natalia sold \boxed{72} clips.
    <answer/>

`<step/>` ends a step, `<code/>` the last step of a code block, and `<answer/>` the answer. The
three marks share the ending `/>`, which is the only stop string they need. A server removes the
stop string, but the mark's name remains in the text. The tags are shorter than those of the
authors' code (4 tokens instead of 8 with SmolLM2's tokenizer); docs/fidelity.md lists this
departure.

Both formats have the same steps. Their kinds are "step" (the program continues), "code" (the last
step of a code block) and "answer".
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rstar_math.errors import InputError
from rstar_math.extraction import extract_stated_answer
from rstar_math.types import Execution, ExecutionStatus, Step

OUTPUT_CHARS = 1024
"""Maximum length of program output in a prompt, in characters.

Of a longer output, the head and the tail are shown (rStar-Math's code: 512 + 512).
"""
CODE_STEP_KINDS = frozenset({"step", "code", "answer"})
"""Kinds of steps that the formats can render."""
_MARK_NAME = re.compile(r"<(step|code|answer)\Z")
_LEADING_COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*")
_CODE_TAG = re.compile(r"\A\s*<code>[ \t]*\n?")
_OPEN_FENCE = re.compile(r"^```(?:python|py|Python)[ \t]*\n", re.MULTILINE)
_TOP_LEVEL_PRINT = re.compile(r"^print\(", re.MULTILINE)
_MAX_PARSED_CHARS = 20_000
"""Longer code is not checked for syntax."""


@dataclass(frozen=True, slots=True)
class ParsedSample:
    """A sampled text parsed into a step, or the reason why it is not a step."""

    step: Step | None
    problem: str | None = None


class StepFormat(Protocol):
    """Renders steps to text and parses sampled text into steps."""

    @property
    def name(self) -> str:
        """The format's name in `policy.format`."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings for sampling one step."""
        ...

    @property
    def block_stops(self) -> tuple[str, ...]:
        """Stop strings for sampling up to the end of a program or of the answer."""
        ...

    def opening(self, prefix: Sequence[Step]) -> str:
        """Return the text that starts the next step; it opens the code block of the first step."""
        ...

    def render(self, steps: Sequence[Step]) -> str:
        """Return the text of a partial solution: the model's text and the program output."""
        ...

    def render_output(self, executions: Sequence[Execution]) -> str:
        """Return the output section that follows a code block; the model does not write it."""
        ...

    def parse_step(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """Parse the step that was sampled after a prefix.

        `text` does not contain its stop string. `stop` is that string if the server reports it.
        `finished` is False if the text was cut off at the token limit.
        """
        ...

    def parse_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """Parse a text sampled with `block_stops`: its steps, and the problem if there are none."""
        ...

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """Parse a solution's text into steps; the inverse of `render`.

        The steps have no executions. With `outputs`, they have the program output in the text.
        Raises `InputError` for a text that `render` cannot produce.
        """
        ...


class TaggedSteps:
    """The format `tags`."""

    name = "tags"
    stops: tuple[str, ...] = ("/>", "\nQuestion:")
    """The second stop string keeps a base model from writing another problem."""
    block_stops: tuple[str, ...] = ("<code/>", "<answer/>", "\nQuestion:")

    def opening(self, prefix: Sequence[Step]) -> str:
        """See `StepFormat`."""
        return "" if prefix else "<code>\n"

    def render(self, steps: Sequence[Step]) -> str:
        """See `StepFormat`."""
        parts: list[str] = []
        executions: list[Execution] = []
        for index, step in enumerate(steps):
            if step.kind != "answer" and (index == 0 or steps[index - 1].kind == "code"):
                parts.append("<code>\n")
            text = _OPEN_FENCE.sub("", step.prose) + step.code
            parts.append(f"{text}<{step.kind}/>\n")
            if step.execution is not None:
                executions.append(step.execution)
            if step.kind == "code":
                parts.append(self.render_output(executions))
                executions = []
        return "".join(parts)

    def render_output(self, executions: Sequence[Execution]) -> str:
        """See `StepFormat`."""
        return (
            f"<output>\n{program_output(executions).replace('</output>', '</ output>')}</output>\n"
        )

    def parse_step(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """See `StepFormat`. A complete text without a mark ends the open code block or answer."""
        if not finished:
            return ParsedSample(None, "cut off at the token limit")
        mark = _MARK_NAME.search(text)
        body = text[: mark.start()] if mark else text
        in_code = _in_code(prefix)
        code_tag = None if in_code else _CODE_TAG.match(body)
        if code_tag:
            body, in_code = body[code_tag.end() :], True
        if not body.strip():
            return ParsedSample(None, "empty")
        kind = mark.group(1) if mark else ("code" if in_code else "answer")
        if in_code != (kind != "answer"):
            return ParsedSample(None, f"<{kind}/> out of place")
        if mark is None and text.endswith("<"):
            return ParsedSample(None, "broken mark")
        if not in_code:
            return ParsedSample(Step(prose=body, kind="answer", answer=extract_stated_answer(body)))
        prose, code = split_code(body)
        return ParsedSample(Step(prose=prose, code=code, kind=kind))

    def parse_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """See `StepFormat`."""
        mark = (stop or "").removesuffix("/>") if stop != "\nQuestion:" else ""
        steps: list[Step] = []
        rest = text + mark
        while True:
            body, separator, rest = rest.partition("<step/>")
            rest = rest.removeprefix("\n")
            has_mark = bool(separator)
            sample = self.parse_step(
                [*prefix, *steps],
                f"{body}<step" if has_mark else body,
                finished=finished or has_mark,
            )
            if sample.step is None:
                return [], sample.problem
            steps.append(sample.step)
            if not has_mark or not rest.strip():
                return steps, None

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """See `StepFormat`."""
        steps: list[Step] = []
        if text and not text.startswith("<code>\n"):
            raise InputError("A solution must start with a line <code>; add it.")
        rest = text.removeprefix("<code>\n")
        while rest:
            if steps and steps[-1].kind == "answer":
                raise InputError("A solution has text after its <answer/>; remove that text.")
            body, mark, rest = _split_at_mark(rest)
            sample = self.parse_step(steps, f"{body}<{mark}", finished=True)
            if sample.step is None:
                raise InputError(
                    f"Step {len(steps) + 1} of a solution is not well formed ({sample.problem})."
                )
            steps.append(sample.step)
            if mark == "code":
                execution, rest = _split_output(rest, "<output>\n", "</output>\n")
                if outputs:
                    steps[-1] = replace(steps[-1], execution=execution)
        return steps


class FencedSteps:
    """The format `fenced`.

    Some servers do not report which stop string ended a text. Such a text ends its code block if it
    ends with a line break after a `print` at the left margin. Any other text is a step; a block
    that the model meant to close is then closed by the next, empty step.
    """

    name = "fenced"
    stops: tuple[str, ...] = ("\n#", "```\n", "\nQuestion:")
    block_stops: tuple[str, ...] = ("```\n", "\nQuestion:")

    def opening(self, prefix: Sequence[Step]) -> str:
        """See `StepFormat`."""
        return "" if prefix else "```python\n"

    def render(self, steps: Sequence[Step]) -> str:
        """See `StepFormat`."""
        parts: list[str] = []
        executions: list[Execution] = []
        for index, step in enumerate(steps):
            if step.kind == "answer":
                parts.append(step.text)
                continue
            opens_block = not _in_code(steps[:index]) or index == 0
            if opens_block and not _OPEN_FENCE.search(step.prose):
                parts.append("```python\n")
            parts.append(step.text)
            if step.execution is not None:
                executions.append(step.execution)
            if step.kind == "code":
                parts.append("" if not step.text or step.text.endswith("\n") else "\n")
                parts.append("```\n" + self.render_output(executions))
                executions = []
        return "".join(parts)

    def render_output(self, executions: Sequence[Execution]) -> str:
        """See `StepFormat`."""
        return f"```output\n{program_output(executions).replace('```', chr(39) * 3)}```\n"

    def parse_step(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """See `StepFormat`."""
        parts, problem = self._split(prefix, text, finished=finished, stop=stop)
        if parts is None:
            return ParsedSample(None, problem)
        lead, body, kind = parts
        if kind == "answer":
            return ParsedSample(Step(prose=body, kind="answer", answer=extract_stated_answer(body)))
        prose, code = split_code(body)
        return ParsedSample(Step(prose=lead + prose, code=code, kind=kind))

    def parse_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """See `StepFormat`. A comment without code belongs to the next step, and a statement is
        never split."""
        parts, problem = self._split(prefix, text, finished=finished, stop=stop or "```\n")
        if parts is None:
            return [], problem
        lead, body, kind = parts
        if kind == "answer":
            return [Step(prose=body, kind="answer", answer=extract_stated_answer(body))], None
        steps: list[Step] = []
        pieces = _split_into_steps(body)
        for number, piece in enumerate(pieces, 1):
            prose, code = split_code(piece)
            step_kind = "code" if number == len(pieces) else "step"
            steps.append(Step(prose=prose if steps else lead + prose, code=code, kind=step_kind))
        return steps, None

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """See `StepFormat`."""
        steps: list[Step] = []
        rest = text
        while rest:
            fence = _OPEN_FENCE.search(rest)
            if fence is None:
                break
            if not steps and rest[: fence.start()].strip():
                raise InputError("A solution must start with a line ```python; add it.")
            lead = rest[: fence.end()] if steps else ""
            body, closing, rest = rest[fence.end() :].partition("```\n")
            if not closing:
                raise InputError("A code block of a solution is not closed; add a line of ```.")
            block, problem = self.parse_block(steps, lead + body, finished=True, stop="```\n")
            if problem is not None:
                raise InputError(
                    f"Step {len(steps) + 1} of a solution is not well formed ({problem})."
                )
            steps += block
            execution, rest = _split_output(rest, "```output\n", "```\n")
            if outputs:
                steps[-1] = replace(steps[-1], execution=execution)
        if rest.strip():
            sample = self.parse_step(steps, rest, finished=True)
            if sample.step is None or not steps:
                raise InputError("A solution must start with a line ```python; add it.")
            steps.append(sample.step)
        return steps

    def _split(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None
    ) -> tuple[tuple[str, str, str] | None, str | None]:
        """Return (text before the code, code or answer, kind of the step), or the problem."""
        if not finished:
            return None, "cut off at the token limit"
        lead, body = "", text
        fence = _OPEN_FENCE.search(text)
        if _in_code(prefix):
            if not prefix and fence and not text[: fence.start()].strip():
                body = text[fence.end() :]
        elif fence is not None:
            lead = text[: fence.end()] if text[: fence.start()].strip() else ""
            body = text[fence.end() :]
        else:
            answer = text.rstrip()
            if not answer:
                return None, "empty"
            if stop == "```\n" and extract_stated_answer(answer) is None:
                return None, "code fence without a language"
            return ("", answer, "answer"), None
        body, kind = _code_end(body, stop)
        if not body.strip() and not lead and not (kind == "code" and prefix and fence is None):
            return None, "empty"
        return (lead, body, kind), None


TAGS, FENCED = TaggedSteps(), FencedSteps()
FORMATS: Mapping[str, StepFormat] = {"tags": TAGS, "fenced": FENCED}
"""The formats by name."""


def program_output(executions: Sequence[Execution]) -> str:
    """Return the output of a code block, cut to `OUTPUT_CHARS`, and the error if it failed.

    The text is empty or ends with a line break.
    """
    text = "".join(execution.stdout for execution in executions)
    if len(text) > OUTPUT_CHARS:
        half = OUTPUT_CHARS // 2
        text = f"{text[:half]}...{text[-half:]}"
    if text and not text.endswith("\n"):
        text += "\n"
    if executions and not executions[-1].ok:
        text += _error_line(executions[-1]) + "\n"
    return text


def split_code(text: str) -> tuple[str, str]:
    """Split the text of a code step into its leading comment lines and the rest."""
    match = _LEADING_COMMENTS.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def comment_text(step: Step) -> str:
    """Return a step's prose without comment signs and code fences, for display."""
    if step.kind not in ("step", "code"):
        return step.prose.strip()
    prose = _OPEN_FENCE.sub("", step.prose)
    lines = (line.strip().lstrip("#").strip() for line in prose.splitlines())
    return "\n".join(line for line in lines if line)


def _in_code(prefix: Sequence[Step]) -> bool:
    """Return whether the step after a prefix is part of a code block."""
    return not prefix or prefix[-1].kind == "step"


def _code_end(body: str, stop: str | None) -> tuple[str, str]:
    """Return a fenced step's code and its kind.

    `stop` is the stop string that ended the text, or None if the server does not report it.
    """
    stripped = body.rstrip()
    if stop == "```\n" or stripped.endswith("```"):
        return (stripped.removesuffix("```") if stripped.endswith("```") else body), "code"
    if stop == "\n#":
        return body + "\n", "step"
    if not stripped or (
        body.endswith("\n") and _TOP_LEVEL_PRINT.search(stripped.rsplit("\n\n", 1)[-1])
    ):
        return body, "code"
    return body if body.endswith("\n") else body + "\n", "step"


def _split_into_steps(code: str) -> list[str]:
    """Split code before each comment at the left margin. The pieces concatenated are the code.

    A piece without code, and a piece that is not valid Python alone, is joined with the next one.
    """
    pieces: list[str] = []
    pending = ""
    for part in re.split(r"(?<=\n)(?=#)", code):
        pending += part
        if not split_code(pending)[1].strip():
            continue
        if _is_valid_python(pending):
            pieces.append(pending)
        elif pieces and _is_valid_python(pieces[-1] + pending):
            pieces[-1] += pending
        else:
            continue
        pending = ""
    if pending and pieces and not split_code(pending)[1].strip():
        pieces[-1] += pending
    elif pending or not pieces:
        pieces.append(pending)
    return pieces


def _is_valid_python(code: str) -> bool:
    """Return whether code can be parsed. Code that is too long to check counts as valid."""
    if len(code) > _MAX_PARSED_CHARS:
        return True
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _error_line(execution: Execution) -> str:
    """Return the line about a failed execution that the model sees."""
    if execution.status is ExecutionStatus.ERROR:
        return f"{execution.error_type or 'Error'}: {execution.message or ''}".rstrip(": ")
    return {
        ExecutionStatus.TIMEOUT: "TimeoutError: the code ran too long",
        ExecutionStatus.MEMORY: "MemoryError: the code used too much memory",
        ExecutionStatus.OUTPUT_CAP: "OutputError: the code printed too much",
    }.get(execution.status, "RuntimeError: the code's process ended early")


def _split_at_mark(text: str) -> tuple[str, str, str]:
    """Split a tagged solution's text into the first step, its mark's name, and the remaining text.

    Raises `InputError` if there is no mark.
    """
    match = re.search(r"<(step|code|answer)/>\n", text)
    if match is None:
        raise InputError(
            "A solution ends without <step/>, <code/> or <answer/>; end each step with one of them."
        )
    return text[: match.start()], match.group(1), text[match.end() :]


def _split_output(text: str, opening: str, closing: str) -> tuple[Execution, str]:
    """Return the output section after a code block, and the remaining text.

    Raises `InputError` if there is no output section.
    """
    output, end, rest = text.partition(closing)
    if not output.startswith(opening) or not end:
        raise InputError(
            f"A code block of a solution has no output section; add one between {opening.strip()} "
            f"and {closing.strip()}."
        )
    return Execution(ExecutionStatus.OK, output.removeprefix(opening)), rest
