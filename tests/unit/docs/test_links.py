"""Every link of the documentation leads somewhere, and every page is in the site's menu."""

import re
from pathlib import PurePosixPath

import pytest

from tests.unit.docs.pages import HISTORY, ROOT, WRITTEN, anchors, links, made, name, text

PAGES = [name(path) for path in (*WRITTEN, HISTORY)]
FOREIGN = {"docs/gguf.md"}
"""ggml's description of its format."""


@pytest.mark.parametrize("page", [*PAGES, *made()])
def test_every_link_and_anchor_leads_somewhere(page: str) -> None:
    lost = []
    for link in links(page):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = _normal(PurePosixPath(page).parent / path) if path else page
        there = (ROOT / target).exists() or target in made()
        if not there or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert lost == []


def test_the_menu_names_every_page_once() -> None:
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": ([\w/-]+\.md)$", menu, re.MULTILINE)
    there = [page.removeprefix("docs/") for page in [*PAGES, *made()] if page.startswith("docs/")]
    assert sorted(named) == sorted(there)


def test_every_picture_is_used() -> None:
    used = {link.rpartition("/")[2] for page in PAGES for link in links(page)}
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} <= used


def test_generated_pages_are_whole() -> None:
    for page in made():
        assert text(page).startswith("# ")
        assert " object at 0x" not in text(page)


def test_every_page_and_program_that_code_names_exists() -> None:
    """In docstrings, help texts and comments, of the examples too."""
    named = re.compile(
        r"(?<![\w/.-])(?:docs|examples|benchmarks|tests)/[\w./-]+\.(?:md|py|toml|css)\b"
    )
    lost = [
        f"{name(file)}: {path}"
        for folder in ("src", "examples", "benchmarks", "tests", "docs")
        for file in (ROOT / folder).rglob("*.py")
        for path in named.findall(file.read_text(encoding="utf-8"))
        if not (ROOT / path).exists() and path not in made() and path not in FOREIGN
    ]
    assert lost == []


def _normal(path: PurePosixPath) -> str:
    """A path without its dots."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts)
