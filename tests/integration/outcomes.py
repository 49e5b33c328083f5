"""What an evolution came to."""

from pathlib import Path
from typing import Any

from rstar_math.evolution.manifest import ManifestStore


def outcome(run: Path) -> dict[str, Any]:
    """What a run came to, stage by stage, without the clock."""
    return {one["stage"]: (one["inputs"], one["found"]) for one in ManifestStore.read(run).all()}
