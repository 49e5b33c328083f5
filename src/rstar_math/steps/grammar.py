"""Code-augmented chain of thought as text (rStar-Math, arXiv:2501.04519, section 3.2).

A solution is a block of Python whose comments are the thoughts, cut into steps; what the block
printed; and an answer in a box:

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
    Natalia sold \\boxed{72} clips.
    <answer/>

`<step/>` ends a step, `<code/>` the last step of a block, `<answer/>` the answer. The three marks
share their ending, which is the one stop string: a server that drops the stop string it stopped
at still leaves the mark's name in the text, so it is never in doubt what ended. The tags are
shorter than those of the authors' code (4 tokens instead of 8 with SmolLM2's tokenizer); a
departure listed in docs/fidelity.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rstar_math.errors import InputError
from rstar_math.grading.extract import extract_answer
from rstar_math.types import Execution, ExecutionStatus, Step

_MARK = re.compile(r"<(step|code|answer)\Z")
_COMMENTS = re.compile(r"(?:[ \t]*(?:#[^\n]*)?(?:\n|\Z))*")
_BLOCK = re.compile(r"\A\s*<code>[ \t]*\n?")


@dataclass(frozen=True, slots=True)
class Sample:
    """What one sampled text turned out to be: a step, or the reason why it is none."""

    step: Step | None
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Grammar:
    """Renders steps to text and reads sampled text back into steps."""

    output_chars: int = 1024
    """Longest program output shown to the model, in characters; of a longer one the head and the
    tail are shown (rStar-Math's code: 512 + 512)."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Stop strings to sample a step with; the second keeps a base model from inventing more
        problems."""
        return ("/>", "\nQuestion:")

    def opening(self, prefix: Sequence[Step]) -> str:
        """Text that leads into the next step: opens the code block of a solution's first step."""
        return "" if prefix else "<code>\n"

    def render(self, steps: Sequence[Step]) -> str:
        """The solution's text so far, as the model wrote it, with program output put in."""
        parts: list[str] = []
        block: list[Execution] = []
        for index, step in enumerate(steps):
            if step.kind != "answer" and (index == 0 or steps[index - 1].kind == "code"):
                parts.append("<code>\n")
            parts.append(f"{step.text}<{step.kind}/>\n")
            if step.execution is not None:
                block.append(step.execution)
            if step.kind == "code":
                parts.append(self.shown(block))
                block = []
        return "".join(parts)

    def shown(self, block: Sequence[Execution]) -> str:
        """What `render` puts in after a code block: all that the model did not write itself."""
        return f"<output>\n{self.output(block)}</output>\n"

    def output(self, block: Sequence[Execution]) -> str:
        """What a code block printed, cut to `output_chars`, then how it failed if it did; ends in
        a newline unless empty."""
        text = "".join(run.stdout for run in block)
        if len(text) > self.output_chars:
            half = self.output_chars // 2
            text = f"{text[:half]}...{text[-half:]}"
        if text and not text.endswith("\n"):
            text += "\n"
        if block and not block[-1].ok:
            text += _complaint(block[-1]) + "\n"
        return text.replace("</output>", "</ output>")

    def read(self, prefix: Sequence[Step], text: str, *, finished: bool) -> Sample:
        """The step that a sampled text holds after a prefix.

        `text` lacks its stop string. A text that ended by itself without a mark ends what was open.
        """
        if not finished:
            return Sample(None, "cut off at the token limit")
        mark = _MARK.search(text)
        body = text[: mark.start()] if mark else text
        in_code = self._in_code(prefix)
        opened = None if in_code else _BLOCK.match(body)
        if opened:
            body, in_code = body[opened.end() :], True
        if not body.strip():
            return Sample(None, "empty")
        kind = mark.group(1) if mark else ("code" if in_code else "answer")
        if in_code != (kind != "answer"):
            return Sample(None, f"<{kind}/> out of place")
        if mark is None and text.endswith("<"):
            return Sample(None, "broken mark")
        if not in_code:
            return Sample(Step(prose=body, kind="answer", answer=extract_answer(body)))
        prose, code = split_code(body)
        return Sample(Step(prose=prose, code=code, kind=kind))

    def parse(self, text: str) -> list[Step]:
        """The steps of a solution's text, without their executions: the inverse of `render`.

        Raises `InputError` for a text that `render` cannot have written.
        """
        steps: list[Step] = []
        if text and not text.startswith("<code>\n"):
            raise InputError("A solution does not begin with a line <code>; put one first.")
        rest = text.removeprefix("<code>\n")
        while rest:
            if steps and steps[-1].kind == "answer":
                raise InputError("A solution goes on after its <answer/>; remove what follows it.")
            body, mark, rest = _cut(rest)
            sample = self.read(steps, f"{body}<{mark}", finished=True)
            if sample.step is None:
                raise InputError(
                    f"Step {len(steps) + 1} of a solution is not well formed ({sample.problem})."
                )
            steps.append(sample.step)
            if mark == "code":
                rest = _skip_output(rest)
        return steps

    @staticmethod
    def _in_code(prefix: Sequence[Step]) -> bool:
        """Whether the step after a prefix continues (or, at the start, opens) a code block."""
        return not prefix or prefix[-1].kind == "step"


GRAMMAR = Grammar()


def split_code(text: str) -> tuple[str, str]:
    """A code step's text as (leading comment lines, the rest); joined they are the text."""
    match = _COMMENTS.match(text)
    end = match.end() if match else 0
    return text[:end], text[end:]


def thought(step: Step) -> str:
    """A step's prose for a reader: comment signs removed."""
    if step.kind not in ("step", "code"):
        return step.prose.strip()
    lines = (line.strip().lstrip("#").strip() for line in step.prose.splitlines())
    return "\n".join(line for line in lines if line)


def _complaint(run: Execution) -> str:
    """One line on a failed run, as the model is shown it."""
    if run.status is ExecutionStatus.ERROR:
        return f"{run.error_type or 'Error'}: {run.message or ''}".rstrip(": ")
    return {
        ExecutionStatus.TIMEOUT: "TimeoutError: the code ran too long",
        ExecutionStatus.MEMORY: "MemoryError: the code used too much memory",
        ExecutionStatus.OUTPUT_CAP: "OutputError: the code printed too much",
    }.get(run.status, "RuntimeError: the code's process ended early")


def _cut(text: str) -> tuple[str, str, str]:
    """A solution's text as (step, its mark's name, what follows the mark's line)."""
    match = re.search(r"<(step|code|answer)/>\n", text)
    if match is None:
        raise InputError(
            "A solution ends without <step/>, <code/> or <answer/>; end each step by one of them."
        )
    return text[: match.start()], match.group(1), text[match.end() :]


def _skip_output(text: str) -> str:
    """What follows the output that follows a code block."""
    head, end, rest = text.partition("</output>\n")
    if not head.startswith("<output>\n") or not end:
        raise InputError("A code block of a solution is not followed by <output>...</output>.")
    return rest
