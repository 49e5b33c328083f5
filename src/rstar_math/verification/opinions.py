"""Asks a model whether a text is the same answer as an accepted one."""

from collections.abc import Sequence

from rstar_math.protocols import Completer
from rstar_math.types import Question, Verdict

_PROMPT = """\
Decide whether a given answer means the same as a reference answer to the question. Extra words do \
not matter; another fact does.

Question: Who wrote the play?
Reference answer: William Shakespeare
Given answer: It was Shakespeare.
Same: yes

Question: In which year did the war end?
Reference answer: 1648
Given answer: 1645
Same: no

Question: {question}
Reference answer: {reference}
Given answer: {answer}
Same:"""
_MAX_CHARS = 2_000


class OpinionJudge:
    """A model that compares short texts. Use it only where normal forms are too strict."""

    def __init__(self, model: Completer) -> None:
        self._model = model

    async def same(self, question: Question, answer: str, accepted: Sequence[str]) -> Verdict:
        """RIGHT or WRONG by the model's "yes" or "no" at temperature 0, else UNKNOWN.

        The answer is cut to 2,000 characters on one line. Raises `ModelError`.
        """
        prompt = _PROMPT.format(
            question=" ".join(question.text.split())[:_MAX_CHARS],
            reference=" or ".join(accepted)[:_MAX_CHARS],
            answer=" ".join(answer.split())[:_MAX_CHARS],
        )
        found = await self._model.complete(
            prompt, n=1, stop=("\n",), max_tokens=4, temperature=0.0, seed=0
        )
        word = found[0].text.strip().lower() if found else ""
        if word.startswith("yes"):
            return Verdict.RIGHT
        return Verdict.WRONG if word.startswith("no") else Verdict.UNKNOWN
