"""The policy of code steps: what it asks, and what it makes of the answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from rstar_math.config import Config, PolicyConfig, SearchConfig
from rstar_math.costs import track_cost
from rstar_math.models.prompting import Prompting
from rstar_math.policies.completions import StepPolicy
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.protocols import Completion
from rstar_math.search import SearchComponents, Tree
from rstar_math.search.sampling import sample_chains
from rstar_math.types import Cost, Execution, ExecutionStatus, Question, Step

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = Question("q", "How many?")
PROGRAM = "# Add.\nx = 3 + 4\n# Show.\nprint(x)\n"


class Scripted:
    """A completer that gives what it is told to and keeps what it was asked."""

    prompting = Prompting(template=ChatTemplate(CHATML))

    def __init__(self, *answers: Sequence[Completion]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def complete(self, prompt: str, **options: Any) -> list[Completion]:
        self.asked.append((prompt, options))
        from rstar_math.costs import add_cost

        add_cost(Cost(calls=1, prompt_tokens=100, sampled_tokens=10))
        return list(self.answers.pop(0))


class Runs:
    """An executor that runs nothing."""

    async def run(self, prefix: Sequence[Step], step: Step) -> Execution:
        return Execution(ExecutionStatus.OK, "7\n" if "print" in step.code else "")


def ended(text: str, stop: str | None = None, reasoning: str = "") -> Completion:
    return Completion(text, True, stop, reasoning=reasoning)


def test_a_step_is_asked_for_in_the_models_own_chat_format() -> None:
    model = Scripted([ended("# Add.\nx = 3 + 4", "\n#"), ended("# Go", None)])
    policy = StepPolicy(model, PolicyConfig(max_step_tokens=99))
    steps = asyncio.run(policy.propose(QUESTION, (), 2, seed=1))
    assert [step.code for step in steps] == ["x = 3 + 4\n", ""]
    prompt, options = model.asked[0]
    assert prompt.startswith("<|im_start|>system\nSolve the problem")
    assert prompt.endswith("How many?<|im_end|>\n<|im_start|>assistant\n```python\n")
    assert options["stop"] == ("\n#", "```\n", "<|im_end|>")
    assert (options["n"], options["max_tokens"]) == (2, 99)


def test_chains_ask_once_for_all_programs_and_once_each_for_the_answers() -> None:
    programs = [ended(PROGRAM, "```\n"), ended(PROGRAM, "```\n"), Completion("# lost", False)]
    answers = [[ended("It is \\boxed{7}.")], [ended("So \\boxed{8}.")]]
    model = Scripted(programs, *answers)
    tree = Tree(QUESTION)
    parts = SearchComponents(StepPolicy(model, PolicyConfig()), Runs())
    asyncio.run(sample_chains(tree, 3, parts=parts, config=SearchConfig()))
    assert len(model.asked) == 3
    assert [options["n"] for _, options in model.asked] == [3, 1, 1]
    assert "```output\n7\n```\n" in model.asked[1][0]
    assert sorted(a for a in (n.step and n.step.answer for n in tree.nodes) if a) == ["7", "8"]
    first = tree.trajectory(3).steps
    assert [step.kind for step in first] == ["step", "code", "answer"]
    assert tree.cost.truncated == 1


@pytest.mark.parametrize(("budget", "most"), [("sampled", 12), ("total", 4)])
def test_a_budget_counts_the_tokens_it_says(budget: Any, most: int) -> None:
    endless = [[ended(PROGRAM, "```\n")] * 8, *[[ended("It is \\boxed{7}.")]] * 8] * 40
    model = Scripted(*[[one[0]] if len(one) == 1 else one for one in endless])

    class OneAtATime(Scripted):
        async def complete(self, prompt: str, **options: Any) -> list[Completion]:
            again = "```output" in prompt.rpartition("How many?")[2]
            self.answers = [[ended("It is \\boxed{7}.") if again else ended(PROGRAM, "```\n")]]
            return await super().complete(prompt, **options)

    model = OneAtATime()
    tree = Tree(QUESTION)
    config = SearchConfig(token_budget=200, budget=budget)
    parts = SearchComponents(StepPolicy(model, PolicyConfig()), Runs())
    asyncio.run(sample_chains(tree, None, parts=parts, config=config))
    assert 1 <= tree.rollouts <= most
    spent = tree.cost.sampled_tokens + (tree.cost.prompt_tokens if budget == "total" else 0)
    assert spent >= 200


def test_thoughts_are_limited_kept_apart_and_counted() -> None:
    thoughts = [ended("3 + 4 is \\boxed{99}?", "</think>"), Completion("Hm, and", False)]
    model = Scripted(thoughts, [ended(PROGRAM, "```\n")], [ended(PROGRAM, "```\n")])
    policy = StepPolicy(model, PolicyConfig(max_thinking_tokens=50))
    with track_cost() as cost:
        blocks = asyncio.run(policy.propose_blocks(QUESTION, (), 2, seed=1))
    assert model.asked[0][1]["max_tokens"] == 50
    assert model.asked[0][1]["stop"] == ("</think>",)
    assert model.asked[0][0].endswith("assistant\n<think>\n")
    assert model.asked[2][0].endswith("<think>\nHm, and\n</think>\n\n```python\n")
    assert [block[0].reasoning for block in blocks] == ["3 + 4 is \\boxed{99}?", "Hm, and"]
    assert all(step.answer is None for block in blocks for step in block)
    assert cost.sampled_tokens == 30
    done = [*blocks[0][:-1], blocks[0][-1]]
    assert policy.renderer.prompt(QUESTION, done).count("3 + 4 is \\boxed{99}?") == 1


def test_words_of_an_instruct_model_are_asked_for_in_chat() -> None:
    from rstar_math.search.strategies import Strategy
    from rstar_math.solver.components import Components

    async def group(answers: Sequence[str]) -> list[int]:
        return list(range(len(answers)))

    model = Scripted([ended("7 in all. The answer is \\boxed{7}.", reasoning="Is it \\boxed{8}?")])
    policy = StepPolicy(model, PolicyConfig())
    components = Components(Config(), policy, policy, Runs(), group, None, model, model)
    parts = components.search_components(Strategy("zero"), SearchConfig(), None)
    (step,) = asyncio.run(parts.policy.propose(QUESTION, (), 1, seed=0))
    assert (step.answer, step.reasoning) == ("7", "Is it \\boxed{8}?")
    prompt, options = model.asked[0]
    assert prompt == (
        "<|im_start|>user\nHow many?\nPlease reason step by step, and put your final answer "
        "within \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert options["stop"] == ("<|im_end|>",)
