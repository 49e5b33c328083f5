"""Figures as a report writes them."""


def percent(share: float | None) -> str:
    """A share in per cent."""
    return "-" if share is None else f"{100 * share:.1f} %"


def span(interval: tuple[float, float] | None) -> str:
    """An interval of shares in per cent."""
    return "-" if interval is None else f"{100 * interval[0]:.1f}–{100 * interval[1]:.1f}"


def short(value: float) -> str:
    """A figure with as many places as it deserves."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def points(interval: tuple[float, float]) -> str:
    """An interval of differences in points."""
    return f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}"
