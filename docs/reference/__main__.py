"""Writes the generated pages below a folder."""

import sys
from pathlib import Path

from docs.reference.pages import pages

for path, text in pages().items():
    target = Path(sys.argv[1]) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")
