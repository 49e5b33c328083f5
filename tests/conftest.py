"""What every test shares: where the public problem sets may be, and how long hypothesis may
take."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("project")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public problem sets, which are not part of the project."""
    named = os.environ.get("RSTAR_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("the public problem sets are not here; name their folder in RSTAR_DATA")
    return Path(named)
