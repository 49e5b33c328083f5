"""Step formats: code-augmented chain of thought as text (rStar-Math, arXiv:2501.04519, section
3.2).

A solution is Python whose comments are the thoughts, cut into steps; what the program printed; and
an answer in a box. There are two ways to write it down:

`fenced`, the Markdown that code models write by themselves. A step ends where the next comment
begins at the left margin, so no mark has to be learned:

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

`tags`, with a mark at each end of a step:

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

`<step/>` ends a step, `<code/>` the last step of a block, `<answer/>` the answer. The three marks
share their ending, which is the one stop string: a server that drops the stop string it stopped
at still leaves the mark's name in the text. The tags are shorter than those of the authors' code
(4 tokens instead of 8 with SmolLM2's tokenizer); a departure listed in docs/fidelity.md.

The steps are the same in both: kind "step" (more of the program follows), "code" (its last step)
and "answer".
"""

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from rstar_math.errors import InputError
from rstar_math.extraction import extract_answer
from rstar_math.types import Execution, ExecutionStatus, Step

OUTPUT_CHARS = 1024
"""Longest program output shown to the model, in characters; of a longer one the head and the tail
are shown (rStar-Math's code: 512 + 512)."""
KINDS = frozenset({"step", "code", "answer"})
"""Kinds of steps that the formats render."""
_MARK = re.compile(r"<(step|code|answer)\Z")
_COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*")
_CODE_TAG = re.compile(r"\A\s*<code>[ \t]*\n?")
_OPEN_FENCE = re.compile(r"^```(?:python|py|Python)[ \t]*\n", re.MULTILINE)
_PRINTS = re.compile(r"^print\(", re.MULTILINE)
_MOST_PARSED = 20_000
"""Characters of code beyond which a cut is not checked for syntax."""


@dataclass(frozen=True, slots=True)
class ParsedSample:
    """What one sampled text turned out to be: a step, or the reason why it is none."""

    step: Step | None
    problem: str | None = None


class StepFormat(Protocol):
    """Renders steps to text and reads sampled text back into steps."""

    @property
    def name(self) -> str:
        """The name that `policy.format` takes."""
        ...

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings to sample one step with."""
        ...

    @property
    def block_stops(self) -> tuple[str, ...]:
        """Stop strings to sample up to the next point at which a program has to be run."""
        ...

    def opening(self, prefix: Sequence[Step]) -> str:
        """Text that leads into the next step: opens the code block of a solution's first step."""
        ...

    def render(self, steps: Sequence[Step]) -> str:
        """The solution's text so far, as the model wrote it, with program output put in."""
        ...

    def shown(self, block: Sequence[Execution]) -> str:
        """What `render` puts in after a code block: all that the model did not write itself."""
        ...

    def read(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """The step that a sampled text holds after a prefix. `text` lacks its stop string; `stop`
        is that string where the server tells it."""
        ...

    def read_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """The steps of a text sampled with `block_stops`, and the reason where there are none."""
        ...

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """The steps of a solution's text: the inverse of `render`, without executions, or with
        `outputs` with what the text says that each program printed.

        Raises `InputError` for a text that `render` cannot have written.
        """
        ...


class TaggedSteps:
    """The format `tags`."""

    name = "tags"
    stops: tuple[str, ...] = ("/>", "\nQuestion:")
    """The second keeps a base model from inventing more problems."""
    block_stops: tuple[str, ...] = ("<code/>", "<answer/>", "\nQuestion:")

    def opening(self, prefix: Sequence[Step]) -> str:
        """See `StepFormat`."""
        return "" if prefix else "<code>\n"

    def render(self, steps: Sequence[Step]) -> str:
        """See `StepFormat`."""
        parts: list[str] = []
        block: list[Execution] = []
        for index, step in enumerate(steps):
            if step.kind != "answer" and (index == 0 or steps[index - 1].kind == "code"):
                parts.append("<code>\n")
            text = _OPEN_FENCE.sub("", step.prose) + step.code
            parts.append(f"{text}<{step.kind}/>\n")
            if step.execution is not None:
                block.append(step.execution)
            if step.kind == "code":
                parts.append(self.shown(block))
                block = []
        return "".join(parts)

    def shown(self, block: Sequence[Execution]) -> str:
        """See `StepFormat`."""
        return f"<output>\n{program_output(block).replace('</output>', '</ output>')}</output>\n"

    def read(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """See `StepFormat`. A text that ended by itself without a mark ends what was open."""
        if not finished:
            return ParsedSample(None, "cut off at the token limit")
        mark = _MARK.search(text)
        body = text[: mark.start()] if mark else text
        in_code = _in_code(prefix)
        opened = None if in_code else _CODE_TAG.match(body)
        if opened:
            body, in_code = body[opened.end() :], True
        if not body.strip():
            return ParsedSample(None, "empty")
        kind = mark.group(1) if mark else ("code" if in_code else "answer")
        if in_code != (kind != "answer"):
            return ParsedSample(None, f"<{kind}/> out of place")
        if mark is None and text.endswith("<"):
            return ParsedSample(None, "broken mark")
        if not in_code:
            return ParsedSample(Step(prose=body, kind="answer", answer=extract_answer(body)))
        prose, code = split_code(body)
        return ParsedSample(Step(prose=prose, code=code, kind=kind))

    def read_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """See `StepFormat`."""
        mark = (stop or "").removesuffix("/>") if stop != "\nQuestion:" else ""
        steps: list[Step] = []
        rest = text + mark
        while True:
            piece, cut, rest = rest.partition("<step/>")
            rest = rest.removeprefix("\n")
            text_of = f"{piece}<step" if cut else piece
            sample = self.read([*prefix, *steps], text_of, finished=finished or bool(cut))
            if sample.step is None:
                return [], sample.problem
            steps.append(sample.step)
            if not cut or not rest.strip():
                return steps, None

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """See `StepFormat`."""
        steps: list[Step] = []
        if text and not text.startswith("<code>\n"):
            raise InputError("A solution does not begin with a line <code>; put one first.")
        rest = text.removeprefix("<code>\n")
        while rest:
            if steps and steps[-1].kind == "answer":
                raise InputError("A solution goes on after its <answer/>; remove what follows it.")
            body, mark, rest = _cut_at_mark(rest)
            sample = self.read(steps, f"{body}<{mark}", finished=True)
            if sample.step is None:
                raise InputError(
                    f"Step {len(steps) + 1} of a solution is not well formed ({sample.problem})."
                )
            steps.append(sample.step)
            if mark == "code":
                printed, rest = _output(rest, "<output>\n", "</output>\n")
                if outputs:
                    steps[-1] = replace(steps[-1], execution=printed)
        return steps


class FencedSteps:
    """The format `fenced`.

    Where a server does not tell which stop string ended a text, a text that ends in a new line
    after a `print` at the left margin closed its block; any other is a step, and a block that the
    model meant to close is closed by the next, empty step.
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
        block: list[Execution] = []
        for index, step in enumerate(steps):
            if step.kind == "answer":
                parts.append(step.text)
                continue
            opens = not _in_code(steps[:index]) or index == 0
            if opens and not _OPEN_FENCE.search(step.prose):
                parts.append("```python\n")
            parts.append(step.text)
            if step.execution is not None:
                block.append(step.execution)
            if step.kind == "code":
                parts.append("" if not step.text or step.text.endswith("\n") else "\n")
                parts.append("```\n" + self.shown(block))
                block = []
        return "".join(parts)

    def shown(self, block: Sequence[Execution]) -> str:
        """See `StepFormat`."""
        return f"```output\n{program_output(block).replace('```', chr(39) * 3)}```\n"

    def read(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> ParsedSample:
        """See `StepFormat`."""
        found, problem = self._read(prefix, text, finished=finished, stop=stop)
        if found is None:
            return ParsedSample(None, problem)
        lead, body, kind = found
        if kind == "answer":
            return ParsedSample(Step(prose=body, kind="answer", answer=extract_answer(body)))
        prose, code = split_code(body)
        return ParsedSample(Step(prose=lead + prose, code=code, kind=kind))

    def read_block(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None = None
    ) -> tuple[list[Step], str | None]:
        """See `StepFormat`. A comment without code belongs to the step that follows it, and a
        statement is never cut in two."""
        found, problem = self._read(prefix, text, finished=finished, stop=stop or "```\n")
        if found is None:
            return [], problem
        lead, body, kind = found
        if kind == "answer":
            return [Step(prose=body, kind="answer", answer=extract_answer(body))], None
        steps: list[Step] = []
        pieces = _pieces(body)
        for number, piece in enumerate(pieces, 1):
            prose, code = split_code(piece)
            last = number == len(pieces)
            steps.append(
                Step(
                    prose=prose if steps else lead + prose,
                    code=code,
                    kind="code" if last else "step",
                )
            )
        return steps, None

    def parse(self, text: str, *, outputs: bool = False) -> list[Step]:
        """See `StepFormat`."""
        steps: list[Step] = []
        rest = text
        while rest:
            opened = _OPEN_FENCE.search(rest)
            if opened is None:
                break
            if not steps and rest[: opened.start()].strip():
                raise InputError("A solution does not begin with ```python; put that line first.")
            lead = rest[: opened.end()] if steps else ""
            body, closed, rest = rest[opened.end() :].partition("```\n")
            if not closed:
                raise InputError("A code block of a solution is not closed by a line of ```.")
            block, problem = self.read_block(steps, lead + body, finished=True, stop="```\n")
            if problem is not None:
                raise InputError(
                    f"Step {len(steps) + 1} of a solution is not well formed ({problem})."
                )
            steps += block
            printed, rest = _output(rest, "```output\n", "```\n")
            if outputs:
                steps[-1] = replace(steps[-1], execution=printed)
        if rest.strip():
            sample = self.read(steps, rest, finished=True)
            if sample.step is None or not steps:
                raise InputError("A solution does not begin with ```python; put that line first.")
            steps.append(sample.step)
        return steps

    def _read(
        self, prefix: Sequence[Step], text: str, *, finished: bool, stop: str | None
    ) -> tuple[tuple[str, str, str] | None, str | None]:
        """(what comes before the code, the code or the answer, the step's kind), or why not."""
        if not finished:
            return None, "cut off at the token limit"
        lead, body = "", text
        opened = _OPEN_FENCE.search(text)
        if _in_code(prefix):
            if not prefix and opened and not text[: opened.start()].strip():
                body = text[opened.end() :]
        elif opened is not None:
            lead = text[: opened.end()] if text[: opened.start()].strip() else ""
            body = text[opened.end() :]
        else:
            answer = text.rstrip()
            if not answer:
                return None, "empty"
            if stop == "```\n" and extract_answer(answer) is None:
                return None, "code fence without a language"
            return ("", answer, "answer"), None
        body, kind = _code_end(body, stop)
        if not body.strip() and not lead and not (kind == "code" and prefix and opened is None):
            return None, "empty"
        return (lead, body, kind), None


TAGS, FENCED = TaggedSteps(), FencedSteps()
FORMATS: Mapping[str, StepFormat] = {"tags": TAGS, "fenced": FENCED}
"""The formats by name."""
GRAMMAR = TAGS


def program_output(block: Sequence[Execution]) -> str:
    """What a code block printed, cut to `OUTPUT_CHARS`, then how it failed if it did; ends in a
    newline unless empty."""
    text = "".join(run.stdout for run in block)
    if len(text) > OUTPUT_CHARS:
        half = OUTPUT_CHARS // 2
        text = f"{text[:half]}...{text[-half:]}"
    if text and not text.endswith("\n"):
        text += "\n"
    if block and not block[-1].ok:
        text += _error_line(block[-1]) + "\n"
    return text


def split_code(text: str) -> tuple[str, str]:
    """A code step's text as (leading comment lines, the rest); joined they are the text."""
    match = _COMMENTS.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def comment_text(step: Step) -> str:
    """A step's prose for a reader: comment signs and code fences removed."""
    if step.kind not in ("step", "code"):
        return step.prose.strip()
    prose = _OPEN_FENCE.sub("", step.prose)
    lines = (line.strip().lstrip("#").strip() for line in prose.splitlines())
    return "\n".join(line for line in lines if line)


def _in_code(prefix: Sequence[Step]) -> bool:
    """Whether the step after a prefix continues (or, at the start, opens) a code block."""
    return not prefix or prefix[-1].kind == "step"


def _code_end(body: str, stop: str | None) -> tuple[str, str]:
    """A fenced step's code and its kind, by how the text ended."""
    stripped = body.rstrip()
    if stop == "```\n" or stripped.endswith("```"):
        return (stripped.removesuffix("```") if stripped.endswith("```") else body), "code"
    if stop == "\n#":
        return body + "\n", "step"
    if not stripped or (body.endswith("\n") and _PRINTS.search(stripped.rsplit("\n\n", 1)[-1])):
        return body, "code"
    return body if body.endswith("\n") else body + "\n", "step"


def _pieces(code: str) -> list[str]:
    """Code cut before each comment at the left margin; pieces joined are the code. A piece with
    nothing but comments, and one that is not whole by itself, are joined with the next."""
    pieces: list[str] = []
    pending = ""
    for part in re.split(r"(?<=\n)(?=#)", code):
        pending += part
        if not split_code(pending)[1].strip():
            continue
        if _compiles(pending):
            pieces.append(pending)
        elif pieces and _compiles(pieces[-1] + pending):
            pieces[-1] += pending
        else:
            continue
        pending = ""
    if pending and pieces and not split_code(pending)[1].strip():
        pieces[-1] += pending
    elif pending or not pieces:
        pieces.append(pending)
    return pieces


def _compiles(code: str) -> bool:
    """Whether code is whole: no statement of it is cut. True for what is too long to look at."""
    if len(code) > _MOST_PARSED:
        return True
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _error_line(run: Execution) -> str:
    """One line on a failed run, as the model is shown it."""
    if run.status is ExecutionStatus.ERROR:
        return f"{run.error_type or 'Error'}: {run.message or ''}".rstrip(": ")
    return {
        ExecutionStatus.TIMEOUT: "TimeoutError: the code ran too long",
        ExecutionStatus.MEMORY: "MemoryError: the code used too much memory",
        ExecutionStatus.OUTPUT_CAP: "OutputError: the code printed too much",
    }.get(run.status, "RuntimeError: the code's process ended early")


def _cut_at_mark(text: str) -> tuple[str, str, str]:
    """A tagged solution's text as (step, its mark's name, what follows the mark's line)."""
    match = re.search(r"<(step|code|answer)/>\n", text)
    if match is None:
        raise InputError(
            "A solution ends without <step/>, <code/> or <answer/>; end each step by one of them."
        )
    return text[: match.start()], match.group(1), text[match.end() :]


def _output(text: str, opening: str, closing: str) -> tuple[Execution, str]:
    """The output that follows a code block, and what follows it."""
    head, end, rest = text.partition(closing)
    if not head.startswith(opening) or not end:
        raise InputError(
            f"A code block of a solution is not followed by its output, between {opening.strip()} "
            f"and {closing.strip()}."
        )
    return Execution(ExecutionStatus.OK, head.removeprefix(opening)), rest
