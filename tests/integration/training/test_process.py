"""What a training leaves in its process for what comes next."""

import os
import sys

import pytest

from rstar_math.training.trainer import stop_openmp_threads

torch = pytest.importorskip("torch", reason="training's packages are not installed")


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_idle_threads_end_and_come_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        square = torch.ones(512, 512)
        assert (square @ square)[0, 0] == 512
        kept = _threads()
        stop_openmp_threads()
        assert _threads() <= kept - 2
        assert (square @ square)[0, 0] == 512
    finally:
        torch.set_num_threads(before)


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))
