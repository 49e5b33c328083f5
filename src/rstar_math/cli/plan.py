"""`rstar plan`: placeholder."""


def plan() -> None:
    """Reckon."""
