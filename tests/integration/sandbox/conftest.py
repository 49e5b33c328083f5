"""What tests of the scratch folder need."""

import pytest

from rstar_math.sandbox import probe


@pytest.fixture(scope="session")
def scratch_works() -> None:
    """Skip where there are no scratch folders. `test_all_needed_layers_hold_here` fails there."""
    [layer] = [layer for layer in probe() if layer.name == "scratch"]
    if not layer.holds:
        pytest.skip(layer.detail)
