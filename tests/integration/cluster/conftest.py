"""A Ray cluster of several nodes on this machine."""

import os
from collections.abc import Iterator
from typing import Any

import pytest

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head has no core to give; tests bring the nodes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
    cluster_utils = pytest.importorskip(
        "ray.cluster_utils", reason="Ray is not installed: pip install 'rstar-math[ray]'"
    )
    head = NODE | {"num_cpus": 0, "include_dashboard": False}
    found = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    yield found
    found.shutdown()
