"""With the layers that stop it switched off, a case gets through: that is how we know that the
suite would notice the loss of a layer."""

import asyncio
from itertools import groupby
from pathlib import Path

import pytest

from rstar_math.config import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Step
from tests.integration.sandbox.attacks import CASES, Case
from tests.integration.sandbox.attacks.case import ESCAPED
from tests.integration.sandbox.canaries import canaries

BITING = sorted((case for case in CASES if case.teeth), key=lambda case: sorted(case.stopped_by))
COMBINATIONS = [frozenset(key) for key, _ in groupby(BITING, lambda case: sorted(case.stopped_by))]


def cases_of(layers: frozenset[str]) -> list[Case]:
    return [case for case in BITING if case.stopped_by == layers]


async def escaped(layers: frozenset[str], folder: Path) -> set[str]:
    """The names of those cases that get through; one at a time, each with canaries of its own."""
    through = set()
    async with Sandbox(SandboxConfig(workers=1, timeout_s=5), _skip=layers | {"bwrap"}) as sandbox:
        for number, case in enumerate(cases_of(layers)):
            with canaries(folder / str(number)) as targets:
                execution = await sandbox.run((), Step(code=targets.fill(case.code)))
                if ESCAPED in execution.stdout:
                    through.add(case.name)
    return through


@pytest.mark.parametrize("layers", COMBINATIONS, ids=lambda layers: "+".join(sorted(layers)))
def test_without_the_layers_the_cases_get_through(layers: frozenset[str], tmp_path: Path) -> None:
    through = asyncio.run(escaped(layers, tmp_path))
    assert {case.name for case in cases_of(layers)} == through


def test_every_layer_has_cases_that_need_it() -> None:
    needed = {layer for case in BITING for layer in case.stopped_by}
    assert needed >= {"landlock", "seccomp", "rlimits", "descriptors"}
