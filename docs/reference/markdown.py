"""Text of docstrings and of options as Markdown."""

import re


def plain(text: str) -> str:
    """Text as Markdown in which a tag is no tag, outside of code."""
    parts = re.split(r"(`[^`]*`|^ {4}.*$)", text, flags=re.MULTILINE)
    return "".join(
        p if i % 2 else p.replace("<", "&lt;").replace("*", "\\*") for i, p in enumerate(parts)
    )


def cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")
