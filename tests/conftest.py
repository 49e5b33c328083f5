"""What every test shares: where the public problem sets may be, how long hypothesis may take, and
that Ctrl-C is heard."""

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ["RSTAR_MODEL"] = "local"  # the default model must not depend on what was downloaded
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60
)
settings.load_profile("project")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them ignore Ctrl-C, and so every command
    # that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of public problem sets, which are not part of the project."""
    named = os.environ.get("RSTAR_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("the public problem sets are not here; name their folder in RSTAR_DATA")
    return Path(named)
