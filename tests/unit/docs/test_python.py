"""Every block of Python in the documentation compiles, and is run by some test."""

import re

from tests.unit.docs.pages import WRITTEN, blocks, name

RUN_ELSEWHERE = {
    "README.md": "tests/e2e/test_readme.py",
    "docs/serving.md": "examples/openai_client.py",
}
"""Pages whose Python needs a model or a server, and what runs the same."""


def test_every_block_of_python_compiles() -> None:
    pages = [name(path) for path in WRITTEN]
    code = [block for page in pages for block in blocks(page) if block.language == "python"]
    assert len(code) >= 5
    for block in code:
        compile(block.code, block.page, "exec")


def test_languages_are_named() -> None:
    """A fence says what is in it, so that no Python hides from the tests."""
    known = {"python", "toml", "json"}
    found = {b.language for path in WRITTEN for b in blocks(name(path)) if b.language}
    assert found <= known
    for path in WRITTEN:
        for block in blocks(name(path)):
            if not block.language:
                assert not re.match(r"(import|from) \w+", block.code), (block.page, block.code)
