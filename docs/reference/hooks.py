"""What mkdocs calls while it builds the site (`hooks` in mkdocs.yml)."""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages to the site."""
    from mkdocs.structure.files import File  # type: ignore[import-not-found,unused-ignore]

    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    from docs.reference.pages import pages

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ lead to the repository."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[1]))
        inside = target.startswith("docs/")
        return link[0] if inside else f"]({config.extra['source']}/blob/main/{target})"

    return re.sub(r"\]\((\.\./[^)#\s]+)\)", moved, markdown)
