"""What is said where there is no Ray, or no cluster."""

import io
import sys
import threading
from types import ModuleType

import pytest

from rstar_math.distributed.ray_workers import SuppressRayOutput, connect
from rstar_math.errors import ClusterError, MissingDependencyError


def test_without_ray_the_command_to_type_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rstar-math\[ray\]'"):
        connect("auto")


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "nonsense"])
def test_an_address_where_nobody_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    with pytest.raises(ClusterError, match=f"no Ray cluster at {address}"):
        connect(address)


def test_what_rays_threads_print_does_not_reach_the_output() -> None:
    stream = io.StringIO()
    quiet = SuppressRayOutput(stream)
    loud = threading.Thread(target=print, args=("a node died",), kwargs={"file": quiet})
    loud.name = "ray_listen_error_messages"
    loud.start()
    loud.join()
    print("ours", file=quiet)
    assert stream.getvalue() == "ours\n"
