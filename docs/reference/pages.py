"""All generated pages."""

from docs.reference.commands import cli_page
from docs.reference.configuration import configuration_page
from docs.reference.modules import files_page
from docs.reference.strategies import strategies_page


def pages() -> dict[str, str]:
    """Markdown of each generated page, by its path below docs/."""
    return {
        "reference/cli.md": cli_page(),
        "reference/configuration.md": configuration_page(),
        "reference/strategies.md": strategies_page(),
        "reference/files.md": files_page(),
    }
