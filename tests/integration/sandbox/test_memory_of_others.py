"""A snippet finds neither the code nor the output of other snippets in its memory."""

import asyncio
import secrets

import pytest

from rstar_math.config.sections import SandboxConfig
from rstar_math.sandbox import Sandbox
from rstar_math.types import Step

SEARCH = """
import gc, sys
marker = bytes.fromhex("{marker}").decode()
raw = marker.encode()
def texts(value, depth=0):
    if isinstance(value, (str, bytes, bytearray)):
        yield value
    elif isinstance(value, memoryview):
        yield bytes(value)
    elif isinstance(value, dict) and depth < 3:
        for each in list(value.values()):
            yield from texts(each, depth + 1)
    elif isinstance(value, (list, tuple, set, frozenset)) and depth < 3:
        for each in list(value):
            yield from texts(each, depth + 1)
found = set()
objects = gc.get_objects()
frame = sys._getframe()
while frame is not None:
    objects.append(frame.f_locals)
    frame = frame.f_back
for value in objects:
    try:
        held = [value, getattr(value, "__dict__", ())]
        for name in getattr(type(value), "__slots__", ()):
            held.append(getattr(value, name, None))
        for text in texts(held):
            if text is marker or text is raw:
                continue
            if (marker in text) if isinstance(text, str) else (raw in text):
                found.add(str(type(value)))
    except Exception:
        continue
print(len(objects) > 1000, sorted(found))
"""


def search(marker: str) -> str:
    return SEARCH.format(marker=marker.encode().hex())


@pytest.mark.parametrize("when", ["during", "after", "in a fan-out"])
def test_nothing_of_another_problem_is_found(when: str) -> None:
    marker = secrets.token_hex(12)
    secret = f"x = 'the code of {marker}'\nprint(x, 'and its output', flush=True)\n"
    wait = "import time; time.sleep(1.5)\n" if when != "after" else ""

    async def once() -> str:
        async with Sandbox(SandboxConfig(workers=1)) as sandbox:
            if when == "in a fan-out":
                prefix = [Step(prose="", code=secret, kind="code")]
                steps = [Step(prose="", code=f"y = {i}\n" + wait, kind="code") for i in range(6)]
                others = [asyncio.create_task(sandbox.run(prefix, step)) for step in steps]
            else:
                step = Step(prose="", code=secret + wait, kind="code")
                others = [asyncio.create_task(sandbox.run([], step))]
            await asyncio.sleep(0.6)  # a slow run lets its zygote start another one
            found = await sandbox.run([], Step(prose="", code=search(marker), kind="code"))
            await asyncio.gather(*others)
            return found.stdout

    assert asyncio.run(once()) == "True []\n"
