"""A Ray cluster of several nodes on this machine: nodes, drivers and servers are killed, and the
run ends as if nothing had been.

Skipped where Ray is not installed: pip install 'rstar-math[ray]'.
"""

import json
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from rstar_math.runs.store import RunStore
from rstar_math.testing import FakeServer, serving
from tests.e2e.adder import answer
from tests.e2e.rstar import COMMAND, rstar, write_problems
from tests.integration.cluster.conftest import NODE
from tests.integration.servers.conftest import ended_within

pytest.importorskip("ray", reason="Ray is not installed: pip install 'rstar-math[ray]'")
pytestmark = pytest.mark.timeout(900)
COUNT = 16
SETTINGS = [
    *("--set", "search.rollouts=4", "--set", "search.candidates=3"),
    *("--set", "model.concurrency=6", "--set", "search.parallel_problems=3"),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the run that one process makes."""
    folder = tmp_path_factory.mktemp("local")
    with serving(answer) as fake:
        args = (write_problems(folder, COUNT), "--run", folder / "run", "--model", fake.url)
        done = rstar("search", *args, *SETTINGS, "--json")
    assert done.returncode == 0, done.stderr
    return digest(folder / "run")


def digest(path: Path) -> str:
    with RunStore.read(path) as store:
        return store.digest()


class Driver:
    """`rstar search --cluster` in a process of its own."""

    def __init__(self, cluster: Any, folder: Path, model: FakeServer | str, *more: str) -> None:
        self.run = folder / "run"
        url = model if isinstance(model, str) else model.url
        args = (write_problems(folder, COUNT), "--run", self.run, "--model", url, *SETTINGS)
        args += ("--cluster", cluster.address, "--json", *more)
        self._out = (folder / "out").open("w+")
        self._err = (folder / "err").open("w+")
        self.process = subprocess.Popen(
            [*COMMAND, "search", *map(str, args)], stdout=self._out, stderr=self._err, text=True
        )

    def wait_for(self, done: int) -> None:
        """Until so many problems are in the run."""
        end = time.monotonic() + 240
        while time.monotonic() < end and self.process.poll() is None:
            if self.run.is_file() and self.finished() >= done:
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.process.poll()}: {self.said()}")

    def finished(self) -> int:
        try:
            with RunStore.read(self.run) as store:
                return len(store.done("mcts"))
        except Exception:
            return 0

    def said(self) -> str:
        self._err.seek(0)
        return self._err.read()

    def report(self) -> dict[str, Any]:
        """What it printed, once it is done."""
        assert self.process.wait(240) == 0, self.said()
        assert "Traceback" not in self.said()
        self._out.seek(0)
        found: dict[str, Any] = json.load(self._out)
        return found["cluster"]  # type: ignore[no-any-return]


def test_a_node_and_a_driver_killed_in_the_middle(
    cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    first, second = cluster.add_node(**NODE), cluster.add_node(**NODE)
    try:
        with serving(answer, delay_s=0.15) as fake:
            driver = Driver(cluster, tmp_path, fake)
            driver.wait_for(2)
            driver.process.send_signal(signal.SIGKILL)
            driver.process.wait()
            kept = driver.finished()
            assert 2 <= kept < COUNT
            driver = Driver(cluster, tmp_path, fake)
            driver.wait_for(kept + 2)
            cluster.remove_node(first, allow_graceful=False)
            report = driver.report()
        assert digest(driver.run) == undisturbed
        assert report["problems"] == COUNT - kept
        assert {worker["node"] for worker in report["workers"]} >= {second.node_id}
    finally:
        cluster.remove_node(second)


@pytest.mark.slow
def test_each_node_starts_a_server_on_each_of_its_gpus(
    cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    (checkpoint := tmp_path / "scripted").mkdir()
    (checkpoint / "config.json").write_text("{}")
    first = cluster.add_node(**NODE, num_gpus=2)
    second = cluster.add_node(**NODE, num_gpus=1)
    fake = Path(__file__).parents[1] / "servers" / "fake_vllm.py"
    source = Path(__file__).parents[3] / "src"
    told = {"FAKE_ADDS": "1", "FAKE_PIDS": tmp_path / "pids", "PYTHONPATH": source}
    command = ["env", *(f"{k}={v}" for k, v in told.items()), sys.executable, str(fake)]
    servers = (
        f"servers.vllm_command={json.dumps(command)}",
        f'servers.log_dir="{tmp_path / "logs"}"',
    )
    driver = Driver(
        cluster, tmp_path, f"vllm:{checkpoint}", *(word for s in servers for word in ("--set", s))
    )
    report = driver.report()
    cluster.remove_node(first)
    cluster.remove_node(second)
    placed = {worker["node"]: worker["problems"] for worker in report["workers"]}
    assert set(placed) == {first.node_id, second.node_id}
    assert sum(placed.values()) == COUNT
    with RunStore.read(driver.run) as store:
        assert len(store.done("mcts")) == COUNT
    pids = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 9, "three servers of three processes each"
    assert ended_within(pids)
    logs = sorted(path.read_text() for path in (tmp_path / "logs").iterdir())
    assert sorted(re.findall(r"CUDA: (\S+)", "".join(logs))) == ["0", "0", "1"]
    assert digest(driver.run) == undisturbed


@pytest.mark.slow
def test_a_node_that_joins_is_put_to_work_and_a_lost_one_given_up(
    cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    first = cluster.add_node(**NODE)
    with serving(answer, delay_s=0.6) as fake:
        driver = Driver(cluster, tmp_path, fake)
        driver.wait_for(1)
        second = cluster.add_node(**NODE)
        while len({r["prompt"] for r in fake.requests}) < COUNT and driver.process.poll() is None:
            time.sleep(0.05)
        time.sleep(3)
        cluster.remove_node(first, allow_graceful=False)
        report = driver.report()
    cluster.remove_node(second)
    assert digest(driver.run) == undisturbed
    by_node = {worker["node"]: worker for worker in report["workers"]}
    assert report["problems"] == COUNT
    assert by_node[second.node_id]["problems"] > 0
    assert by_node[first.node_id]["left"]


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back(
    cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    node = cluster.add_node(**NODE)
    with ExitStack() as first:
        fake = first.enter_context(serving(answer, delay_s=0.1))
        driver = Driver(cluster, tmp_path, fake)
        driver.wait_for(2)
        first.close()
        time.sleep(1.0)
        with serving(answer, delay_s=0.02, port=fake.port) as second:
            report = driver.report()
            assert second.requests
    cluster.remove_node(node)
    assert digest(driver.run) == undisturbed
    assert report["problems"] == COUNT


@pytest.mark.slow
def test_a_server_that_stays_away_is_an_error_and_the_same_command_goes_on(
    cluster: Any, undisturbed: str, tmp_path: Path
) -> None:
    node = cluster.add_node(**NODE)
    impatient = ("--set", "model.max_retries=1")
    with ExitStack() as first:
        fake = first.enter_context(serving(answer, delay_s=0.1))
        driver = Driver(cluster, tmp_path, fake, *impatient)
        driver.wait_for(2)
        first.close()
        assert driver.process.wait(120) == 1
        assert "Traceback" not in driver.said()
        assert fake.url.removesuffix("/v1") in driver.said()
        with serving(answer, port=fake.port) as second:
            Driver(cluster, tmp_path, second, *impatient).report()
    cluster.remove_node(node)
    assert digest(driver.run) == undisturbed


def test_a_cluster_that_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    problems = write_problems(tmp_path, 2)
    done = rstar(
        "search", problems, "--run", tmp_path / "r", "--model", "http://127.0.0.1:9/v1",
        "--cluster", "127.0.0.1:9",
    )  # fmt: skip
    assert done.returncode == 1
    assert "There is no Ray cluster at 127.0.0.1:9" in done.stderr
