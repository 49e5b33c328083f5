"""The attack suite: every case is run in the strict sandbox, and its effect must not happen."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Execution, Step
from tests.integration.sandbox.attacks import CASES, Case
from tests.integration.sandbox.attacks.case import ESCAPED
from tests.integration.sandbox.canaries import Canaries, canaries

CONFIG = SandboxConfig(timeout_s=8, cpu_s=2.5)


WRITES = Step(code="open('first', 'w').close()")
"""As a prefix, it makes every program run with a scratch folder."""
PREFIXES = {"reading": (), "writing": (WRITES,)}


async def run_case(
    sandbox: Sandbox, prefix: Sequence[Step], case: Case, targets: Canaries
) -> Sequence[Execution]:
    codes = [targets.fill(code) for code in (case.code, case.then) if code]
    return [await sandbox.run(prefix, Step(code=code)) for code in codes]


async def run_some(
    config: SandboxConfig, prefix: Sequence[Step], cases: Sequence[Case], targets: Canaries
) -> dict[str, Sequence[Execution]]:
    async with Sandbox(config) as sandbox, asyncio.timeout(240):
        runs = (run_case(sandbox, prefix, case, targets) for case in cases)
        results = await asyncio.gather(*runs)
    return {case.name: result for case, result in zip(cases, results, strict=True)}


async def run_all(targets: Canaries, prefix: Sequence[Step]) -> dict[str, Sequence[Execution]]:
    # Little memory for those that eat it: on a busy machine they would run out of time first.
    small = CONFIG.model_copy(update={"memory_mb": 128})
    eaters = [case for case in CASES if case.group == "memory"]
    others = [case for case in CASES if case.group != "memory"]
    return await run_some(small, prefix, eaters, targets) | await run_some(
        CONFIG, prefix, others, targets
    )


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    with canaries(tmp_path_factory.mktemp("attacks") / "canaries") as made:
        yield made


@pytest.fixture(scope="module", params=PREFIXES)
def results(targets: Canaries, request: pytest.FixtureRequest) -> dict[str, Sequence[Execution]]:
    if request.param == "writing":
        request.getfixturevalue("scratch_works")
    return asyncio.run(run_all(targets, PREFIXES[request.param]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_holds(
    case: Case,
    results: dict[str, Sequence[Execution]],
    targets: Canaries,
    request: pytest.FixtureRequest,
) -> None:
    if case.group == "scratch":
        request.getfixturevalue("scratch_works")
    executions = results[case.name]
    for execution in executions:
        assert ESCAPED not in execution.stdout
        assert targets.word not in execution.stdout
        assert len(execution.stdout) <= CONFIG.output_bytes
    if case.expect != "blocked":
        assert executions[0].status == case.expect, executions[0]
    if case.prints is not None:
        assert executions[0].stdout == case.prints


def test_canaries_are_untouched(results: dict[str, Sequence[Execution]], targets: Canaries) -> None:
    assert results
    assert targets.state() == targets.before
    assert targets.neighbour.poll() is None
    assert targets.contacts() == 0


def test_there_are_enough_cases_and_names_are_unique() -> None:
    names = {case.name for case in CASES}
    assert len(names) == len(CASES)
    assert len(CASES) >= 150
    assert sum(case.teeth for case in CASES) >= 60
