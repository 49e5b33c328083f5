"""Problems whose reference answer is probably wrong: all solutions disagree with it and agree
among themselves (rStar-Math, arXiv:2501.04519, section 4: of 20 problems still unsolved in the last
round, 19 had a wrong label)."""

from collections import Counter
from collections.abc import Sequence

from rstar_math.protocols import Grouper
from rstar_math.search.programs import normalized_program
from rstar_math.training.curation.ledger import Ledger
from rstar_math.training.curation.records import Suspect
from rstar_math.training.curation.settings import CurationConfig
from rstar_math.types import Problem


async def suspect(
    problem: Problem, ledgers: Sequence[Ledger], config: CurationConfig, group: Grouper
) -> Suspect | None:
    """The problem as a suspect, or None.

    Solutions that compute the same count once, since a program that is tried again, or told in
    other words, is no second witness.
    """
    if any(ledger.right[0] for ledger in ledgers):
        return None
    answers: dict[str, str] = {}
    for ledger in ledgers:
        for end in ledger.wrong_ends:
            steps = end.steps
            answers.setdefault(normalized_program(steps), steps[-1].answer or "")
    if len(answers) < config.noise_paths:
        return None
    given = list(answers.values())
    classes = await group(given)
    leader, votes = Counter(classes).most_common(1)[0]
    share = votes / len(given)
    if share < config.noise_share:
        return None
    answer = given[classes.index(leader)]
    return Suspect(problem.id, problem.reference, answer, share, len(given))
