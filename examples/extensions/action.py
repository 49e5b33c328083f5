"""An action of your own for rStar: a plan as the first step.

    PYTHONPATH=examples rstar solve "..." --strategy gen@8 \
        --set 'actions.enabled=["A1","A2","A3","extensions.action:PLAN"]'

Its steps have the kind "plan". The solution begins with the plan; thoughts (A1) and the rest of
the solution (A2) may follow it.
"""

from rstar_math.prompts.actions import Action, ActionContext, ActionResult
from rstar_math.prompts.grammar import ParsedSample
from rstar_math.seeding import derive
from rstar_math.types import Step

EXAMPLE = """Question: Tim has 3 bags of 4 apples and eats 2. How many are left?
Plan: Multiply bags by apples, then subtract what he eats.

"""


def parse_plan(text: str, *, finished: bool) -> ParsedSample:
    """A step of one line."""
    line = text.strip()
    if not finished or not line or "\n" in line:
        return ParsedSample(None, "not one line")
    return ParsedSample(Step(prose=f"Plan: {line}", kind="plan"))


async def propose_plan(context: ActionContext) -> ActionResult:
    """Up to K plans."""
    steps = await context.sample(
        f"{EXAMPLE}Question: {context.question.text}\nPlan:",
        parse_plan,
        n=context.k,
        max_tokens=64,
        stop=("\n",),
        seed=derive(context.seed, "plan"),
    )
    return ActionResult(steps)


PLAN = Action(
    name="plan",
    label="plan",
    propose=propose_plan,
    follows=frozenset({None}),
    followed_by=frozenset({"A1", "A2"}),
)
