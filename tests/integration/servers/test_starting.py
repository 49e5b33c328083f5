"""Servers that are started here: health, ports, logs, adapters, and no orphans."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rstar_math.config import Config, ModelConfig
from rstar_math.config.sections import ServersConfig
from rstar_math.errors import ConfigError, InputError, MissingDependencyError, ModelUnreachableError
from rstar_math.llm import vllm_servers
from rstar_math.llm.client import OpenAIClient
from rstar_math.llm.connect import connect
from rstar_math.llm.metrics import monitor
from rstar_math.llm.vllm_servers import (
    ServerProcess,
    ServerSpec,
    keep_servers,
    start_server,
    stop_idle_servers,
)
from rstar_math.protocols import Completer
from tests.integration.servers.conftest import ended_within, is_running

Begun = Callable[[], list[int]]


async def ask(model: Completer) -> list[str]:
    found = await model.complete("1", n=2, stop=[], max_tokens=9, temperature=0.0, seed=0)
    return [one.text for one in found]


@asynccontextmanager
async def serving(
    checkpoint: Path,
    config: ServersConfig,
    *,
    adapters: tuple[tuple[str, str], ...] = (),
    gpus: str | None = None,
    args: tuple[str, ...] = (),
) -> AsyncIterator[ServerProcess]:
    """A server of a checkpoint while the block runs."""
    spec = ServerSpec(str(checkpoint), checkpoint.name, adapters, gpus, args)
    server = await start_server(spec, config)
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "policy").mkdir()
    return tmp_path / "policy"


def adapter(folder: Path, rank: int) -> str:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(f'{{"r": {rank}}}')
    return str(folder)


def test_a_model_is_served_and_nothing_is_left(
    checkpoint: Path, fake: ServersConfig, begun: Begun, tmp_path: Path
) -> None:
    """Also the grandchild that left the session and ignores all signals but one."""

    async def use() -> list[str]:
        folder = adapter(tmp_path / "tuned", 24)
        async with serving(
            checkpoint,
            fake,
            adapters=(("tuned", folder),),
            gpus="2,3",
            args=("--dtype", "float32"),
        ) as served:
            assert all(map(is_running, begun()))
            assert len(begun()) == 3
            model = OpenAIClient(served.url, name="tuned", key=served.key)
            await model.check_server()
            found = await ask(model)
            await model.aclose()
            with pytest.raises(Exception, match="API key"):
                await OpenAIClient(served.url, key="wrong").check_server()
            said = served.log.read_text()
        assert "'--max-lora-rank', '32'" in said
        assert f"'tuned={folder}'" in said
        assert "'--tensor-parallel-size', '2'" in said
        assert "CUDA: 2,3" in said
        assert "--enable-prefix-caching" in said
        assert served.key not in said, "the key is not for other users to see"
        return found

    assert asyncio.run(use()) == ["It is \\boxed{42}.<answer/>"] * 2
    assert not any(map(is_running, begun()))


@pytest.mark.parametrize(
    ("fault", "said"),
    [("crash", "ended with code 3 .*Engine core init.*its log"), ("hang", "within 3 s")],
)
def test_a_server_that_does_not_come_up_is_a_sentence(
    fault: str,
    said: str,
    checkpoint: Path,
    fake: ServersConfig,
    begun: Begun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    short = fake.model_copy(update={"startup_timeout_s": 3.0})

    async def use() -> None:
        async with serving(checkpoint, short):
            pytest.fail("it answers")

    with pytest.raises(ModelUnreachableError, match=said) as error:
        asyncio.run(use())
    assert "\n" not in str(error.value)
    assert not any(map(is_running, begun()))


def test_a_port_that_was_taken_meanwhile_is_another_port(
    checkpoint: Path, fake: ServersConfig, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "taken")

    async def use() -> None:
        async with serving(checkpoint, fake):
            assert len(begun()) == 6

    asyncio.run(use())
    assert not any(map(is_running, begun()))


def test_a_server_that_does_not_listen_is_ended_by_force(
    checkpoint: Path, fake: ServersConfig, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "deaf")
    monkeypatch.setattr(vllm_servers, "GRACE_S", 0.5)

    async def use() -> None:
        async with serving(checkpoint, fake):
            pass

    asyncio.run(use())
    assert not any(map(is_running, begun()))


def test_a_start_that_is_cancelled_leaves_nothing(
    checkpoint: Path, fake: ServersConfig, begun: Begun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FAULT", "hang")

    async def use() -> None:
        config = Config(model=ModelConfig(url=f"vllm:{checkpoint}"), servers=fake)
        starting = asyncio.create_task(connect(config.model, config.servers))
        await asyncio.to_thread(_wait_for_three, begun)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    asyncio.run(use())
    assert not any(map(is_running, begun()))


def _wait_for_three(begun: Begun) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if len(begun()) == 3:
                return
        except OSError:
            pass
        time.sleep(0.05)
    pytest.fail("the fake has not begun")


_RUN = """
import asyncio, sys
from rstar_math.config.sections import ServersConfig
from rstar_math.llm.vllm_servers import ServerSpec, start_server
async def main():
    config = ServersConfig(vllm_command=(sys.executable, sys.argv[2]), log_dir=sys.argv[3])
    server = await start_server(ServerSpec(sys.argv[1], "policy"), config)
    try:
        print("up", flush=True)
        await asyncio.sleep(600)
    finally:
        await server.stop()
asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_no_orphans_however_rstar_ends(
    how: signal.Signals, checkpoint: Path, fake: ServersConfig, begun: Begun
) -> None:
    assert fake.vllm_command is not None
    assert fake.log_dir is not None
    command = [sys.executable, "-c", _RUN, str(checkpoint), fake.vllm_command[1], fake.log_dir]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert all(map(is_running, begun()))
        run.send_signal(how)
        run.wait(60)
    assert ended_within(begun())


def test_a_killed_warden_takes_the_server_with_it(
    checkpoint: Path, fake: ServersConfig, begun: Begun
) -> None:
    """All but what has left its process group, as no process of vLLM does."""

    async def use() -> None:
        async with serving(checkpoint, fake) as served:
            served.process.kill()
            await served.process.wait()

    asyncio.run(use())
    away = [pid for pid in begun() if is_running(pid) and os.getpgid(pid) == pid]
    assert ended_within([pid for pid in begun() if pid not in away])
    for pid in away:
        os.kill(pid, signal.SIGKILL)
    assert len(away) <= 1


def test_what_is_wrong_with_an_order_is_said_before_anything_starts(
    checkpoint: Path, fake: ServersConfig, tmp_path: Path
) -> None:
    async def use(url: str, config: ServersConfig) -> None:
        await (await connect(ModelConfig(url=url), config)).aclose()

    with pytest.raises(InputError, match="no checkpoint"):
        asyncio.run(use(f"vllm:{tmp_path}/nowhere", fake))
    with pytest.raises(ConfigError, match="names no checkpoint"):
        asyncio.run(use("vllm:", fake))
    bad = fake.model_copy(update={"adapters": {"a": str(checkpoint)}})
    with pytest.raises(InputError, match="LoRA adapter"):
        asyncio.run(use(f"vllm:{checkpoint}", bad))
    none = ServersConfig(vllm_command=("no-such-program",))
    with pytest.raises(MissingDependencyError, match="RSTAR_VLLM="):
        asyncio.run(use(f"vllm:{checkpoint}", none))


def test_the_environment_names_another_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RSTAR_VLLM", f"'{sys.executable}' serve --fast")
    assert vllm_servers.vllm_command(ServersConfig()) == [sys.executable, "serve", "--fast"]
    monkeypatch.setenv("RSTAR_VLLM", "'")
    with pytest.raises(ConfigError, match="command line"):
        vllm_servers.vllm_command(ServersConfig())


def test_like_models_share_their_servers(
    checkpoint: Path, fake: ServersConfig, begun: Begun, tmp_path: Path
) -> None:
    """Two replicas; base and adapter at the same ones; they end with the last user."""
    servers = fake.model_copy(
        update={"replicas": 2, "adapters": {"tuned": adapter(tmp_path / "tuned", 8)}}
    )
    config = ModelConfig(url=f"vllm:{checkpoint}")

    async def use() -> None:
        base = await connect(config, servers)
        tuned = await connect(config.model_copy(update={"name": "tuned"}), servers)
        assert (base.name, tuned.name) == ("policy", "tuned")
        assert len(begun()) == 6
        assert isinstance(base, OpenAIClient)
        async with monitor({"policy": base.replicas}) as use:
            assert await ask(base) == await ask(tuned)
        await base.aclose()
        assert all(map(is_running, begun()))
        assert use["policy"].as_json()["servers"] == 2
        await tuned.aclose()
        assert not any(map(is_running, begun()))

    asyncio.run(use())


def test_servers_are_kept_for_the_next_and_put_away(
    checkpoint: Path, fake: ServersConfig, begun: Begun, tmp_path: Path
) -> None:
    """As in an evolution: solvers come and go, trainings need the memory, policies change."""
    other = tmp_path / "policy-2"
    other.mkdir()

    async def use() -> None:
        async def once(folder: Path) -> None:
            model = await connect(ModelConfig(url=f"vllm:{folder}"), fake)
            await ask(model)
            await model.aclose()

        async with keep_servers():
            await once(checkpoint)
            await once(checkpoint)
            assert len(begun()) == 3
            await once(other)
            assert len(begun()) == 6
            assert not any(map(is_running, begun()[:3]))
            await stop_idle_servers()
            assert not any(map(is_running, begun()))
            await once(other)
        assert not any(map(is_running, begun()))

    asyncio.run(use())


def test_a_server_that_died_is_started_anew_for_the_next(
    checkpoint: Path, fake: ServersConfig, begun: Begun
) -> None:
    async def use() -> None:
        config = ModelConfig(url=f"vllm:{checkpoint}", max_retries=0)
        async with keep_servers():
            first = await connect(config, fake)
            os.kill(min(begun()), signal.SIGKILL)
            assert await asyncio.to_thread(ended_within, begun())
            with pytest.raises(ModelUnreachableError):
                await ask(first)
            await first.aclose()
            second = await connect(config, fake)
            assert await ask(second)
            await second.aclose()

    asyncio.run(use())
