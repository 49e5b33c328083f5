"""The Python of the documentation runs as it stands, with the real sandbox and grader."""

import pytest

from tests.unit.docs.pages import WRITTEN, Block, blocks, name
from tests.unit.docs.test_python import RUN_ELSEWHERE

CODE = [
    block
    for path in WRITTEN
    for block in blocks(name(path))
    if block.language == "python" and block.page not in RUN_ELSEWHERE
]


@pytest.mark.parametrize("block", CODE, ids=lambda block: block.page)
def test_a_block_of_python_runs_and_holds_what_it_asserts(block: Block) -> None:
    assert "assert " in block.code
    exec(compile(block.code, block.page, "exec"), {"__name__": "__main__"})
