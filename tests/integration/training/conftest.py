"""Tiny models need no threads, and on a busy machine threads that wait for each other cost most."""

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """One thread for torch while these tests run."""
    torch = pytest.importorskip(
        "torch", reason="training needs torch: pip install 'rstar-math[train]'"
    )
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
