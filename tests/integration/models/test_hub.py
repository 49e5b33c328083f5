"""Downloads by the real client of the Hugging Face hub from a hub on the loopback."""

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rstar_math.config import ModelConfig
from rstar_math.errors import (
    DownloadError,
    InputError,
    ModelUnreachableError,
    RstarError,
    StoreError,
)
from rstar_math.llm.connect import connect
from rstar_math.models.downloads import resolve_model
from rstar_math.models.storage import is_on_disk, list_stored, remove_model
from rstar_math.progress import Progress
from tests.integration.models.conftest import CODE
from tests.integration.models.hub_server import Hub, Repo

WEIGHTS = bytes(range(256)) * 4000
CHECKPOINT = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "README.md": b"Read me.",
    "modeling_own.py": b"raise SystemExit",
    "onnx/model.onnx": WEIGHTS,
    "consolidated.safetensors": WEIGHTS[1:],
}
GGUFS = {
    "m-q4_k_m.gguf": b"GGUF" + WEIGHTS,
    "m-q8_0-00001-of-00002.gguf": b"GGUF1" + WEIGHTS,
    "m-q8_0-00002-of-00002.gguf": b"GGUF2" + WEIGHTS,
}


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tries again at once, and takes small pieces."""
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)


def test_a_checkpoint_is_downloaded_without_what_is_not_needed(hub: Hub) -> None:
    hub.repos["Org/Name"] = Repo(CHECKPOINT)
    assert not is_on_disk("hf:Org/Name")
    seen: list[Progress] = []
    folder = resolve_model("hf:Org/Name", seen.append)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert seen[-1].done_bytes == seen[-1].total_bytes > len(WEIGHTS)
    assert is_on_disk("hf:org/name")  # the case of a repository does not matter
    hub.status = 500
    assert resolve_model("hf:Org/Name") == folder


def test_a_quantisation_is_picked_and_a_split_file_comes_whole(hub: Hub) -> None:
    hub.repos["Org/M-GGUF"] = Repo(GGUFS)
    single = resolve_model("hf:Org/M-GGUF")
    assert single.name == "m-q4_k_m.gguf"
    assert not is_on_disk("hf:Org/M-GGUF:Q8_0")
    first = resolve_model("hf:Org/M-GGUF:Q8_0")
    assert first.name == "m-q8_0-00001-of-00002.gguf"
    assert sorted(path.name for path in first.parent.iterdir()) == sorted(GGUFS)
    with pytest.raises(InputError, match="q8_0"):
        resolve_model("hf:Org/M-GGUF:Q5_K_M")
    names = [row.name for row in list_stored() if row.source == "hf:Org/M-GGUF"]
    assert names == ["hf:Org/M-GGUF:m-q4_k_m.gguf", f"hf:Org/M-GGUF:{first.name}"]
    assert all(is_on_disk(name) for name in names)
    assert remove_model("hf:Org/M-GGUF:Q8_0") == sum(
        len(content) for name, content in GGUFS.items() if "q8_0" in name
    )
    assert is_on_disk("hf:Org/M-GGUF")
    assert not is_on_disk("hf:Org/M-GGUF:Q8_0")


def test_a_repository_of_ggufs_is_no_checkpoint_and_the_other_way_round(hub: Hub) -> None:
    hub.repos["org/files"] = Repo(GGUFS)
    hub.repos["org/folder"] = Repo(CHECKPOINT)
    with pytest.raises(InputError, match="hf:org/files:"):
        resolve_model("hf:org/files")
    with pytest.raises(InputError, match="no GGUF"):
        resolve_model("hf:org/folder:Q4_K_M")


@pytest.mark.usefixtures("no_pauses")
def test_the_client_goes_on_within_a_file_that_breaks_off(hub: Hub) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    hub.breaks = [300_000, 200_000]
    path = resolve_model("hf:org/m-gguf")
    assert path.read_bytes() == GGUFS[path.name]
    ranges = [one.range for one in hub.gets(path.name)]
    assert ranges == [None, "bytes=300000-", "bytes=500000-"]


@pytest.mark.usefixtures("no_pauses")
def test_a_hub_that_keeps_breaking_off_is_one_sentence_and_the_next_try_goes_on(hub: Hub) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    hub.breaks = [300_000, *([0] * 20)]
    with pytest.raises(RstarError, match="resume") as told:
        resolve_model("hf:org/m-gguf")
    assert "\n" not in str(told.value)
    assert not is_on_disk("hf:org/m-gguf")
    hub.breaks, before = [], len(hub.gets(".gguf"))
    path = resolve_model("hf:org/m-gguf")
    assert path.read_bytes() == GGUFS[path.name]
    assert [one.range for one in hub.gets(path.name)][before:] == ["bytes=300000-"]


def test_wrong_content_is_deleted(hub: Hub, places: Path) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    hub.wrong = {"m-q4_k_m.gguf"}
    with pytest.raises(DownloadError, match="SHA-256"):
        resolve_model("hf:org/m-gguf")
    assert not is_on_disk("hf:org/m-gguf")
    left = [path for path in (places / "home").rglob("*") if path.is_file()]
    assert all(path.stat().st_size < 500 for path in left)
    hub.wrong = set()
    assert resolve_model("hf:org/m-gguf").read_bytes() == GGUFS["m-q4_k_m.gguf"]


def test_a_file_that_changed_on_the_disk_is_found_by_a_check(hub: Hub) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    path = resolve_model("hf:org/m-gguf")
    assert resolve_model("hf:org/m-gguf", check=True) == path
    path.resolve().write_bytes(b"GGUF" + WEIGHTS[::-1])
    with pytest.raises(DownloadError, match="pull"):
        resolve_model("hf:org/m-gguf", check=True)
    assert not is_on_disk("hf:org/m-gguf")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_checkpoint_that_changed_on_the_disk_is_found_at_its_next_use(
    hub: Hub, name: str
) -> None:
    hub.repos["org/name"] = Repo(CHECKPOINT)
    folder = resolve_model("hf:org/name")
    content = (folder / name).read_bytes()
    seen: list[Progress] = []
    assert resolve_model("hf:org/name", seen.append) == folder
    assert not seen  # nothing is hashed again
    blob = (folder / name).resolve()
    blob.write_bytes(content[::-1])  # of the same size
    with pytest.raises(DownloadError, match="changed on disk"):
        resolve_model("hf:org/name")
    assert not blob.exists()
    assert (resolve_model("hf:org/name") / name).read_bytes() == content


def test_a_gguf_that_changed_on_the_disk_is_found_at_its_next_use(hub: Hub) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    path = resolve_model("hf:org/m-gguf")
    assert resolve_model("hf:org/m-gguf") == path
    path.resolve().write_bytes(b"GGUF" + WEIGHTS[::-1])
    with pytest.raises(DownloadError, match="changed on disk"):
        resolve_model("hf:org/m-gguf")


def test_small_files_are_compared_with_the_hash_of_the_hub(hub: Hub) -> None:
    hub.repos["org/name"] = Repo(CHECKPOINT)
    hub.wrong = {"config.json"}
    with pytest.raises(DownloadError, match=r"config\.json changed on disk"):
        resolve_model("hf:org/name")
    hub.wrong = set()
    folder = resolve_model("hf:org/name")
    assert (folder / "config.json").read_bytes() == CHECKPOINT["config.json"]


def test_a_cache_that_cannot_hold_the_record_is_hashed_at_each_use(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.repos["org/name"] = Repo(CHECKPOINT)
    folder = resolve_model("hf:org/name")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RSTAR_CACHE", str(tmp_path / "file"))
    seen: list[Progress] = []
    for _ in range(2):
        assert resolve_model("hf:org/name", seen.append) == folder
    assert len(seen) == 6


def test_a_private_repository_needs_the_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos["org/own-gguf"] = Repo(GGUFS, token="hf_secret")
    with pytest.raises(RstarError, match="HF_TOKEN"):
        resolve_model("hf:org/own-gguf")
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match="HF_TOKEN"):
        resolve_model("hf:org/own-gguf")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert resolve_model("hf:org/own-gguf").is_file()


@pytest.mark.parametrize(
    ("repo", "status", "kind", "word"),
    [
        ("org/gated-gguf", 200, DownloadError, "terms"),
        ("org/none-gguf", 200, RstarError, "HF_TOKEN"),
        ("org/m-gguf", 403, DownloadError, "403"),
        ("org/m-gguf", 503, ModelUnreachableError, "503"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: Hub, repo: str, status: int, kind: type[Exception], word: str
) -> None:
    hub.repos["org/gated-gguf"] = Repo(GGUFS, gated=True)
    hub.status = status
    with pytest.raises(kind, match=word) as told:
        resolve_model(f"hf:{repo}")
    assert "\n" not in str(told.value)


def test_nothing_is_asked_for_when_the_client_is_offline(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE"):
        resolve_model("hf:org/m-gguf")
    assert hub.asked == []


def test_a_disk_without_room_is_told_before_the_download(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match="free"):
        resolve_model("hf:org/m-gguf")
    assert hub.gets(".gguf") == []


def test_the_environment_of_the_client_is_honoured_by_the_command(hub: Hub, places: Path) -> None:
    hub.repos["org/m-gguf"] = Repo(GGUFS, token="hf_secret")
    (places / "home").mkdir()
    (places / "home" / "token").write_text("hf_secret")

    def rstar(*words: str) -> str:
        run = subprocess.run([*CODE, "models", *words], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        return run.stdout

    said = rstar("pull", "hf:org/m-gguf")
    assert str(places / "home") in said
    rows = json.loads(rstar("list", "--json"))["models"]
    (row,) = [row for row in rows if row["name"].startswith("hf:")]
    assert row["on_disk"]
    assert row["size_bytes"] == len(GGUFS["m-q4_k_m.gguf"])
    rstar("remove", "HF:org/m-gguf:q4_k_m")
    assert not is_on_disk("hf:org/m-gguf")


def test_ctrl_c_leaves_a_download_that_goes_on(hub: Hub) -> None:
    content = b"GGUF" + bytes(40_000_000)
    hub.repos["org/m-gguf"] = Repo({"m-q4_k_m.gguf": content})
    hub.pause_s = 0.005
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, *CODE, "models", "pull", "hf:org/m-gguf"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    hub.pause_s = 0.0
    seen: list[Progress] = []
    path = resolve_model("hf:org/m-gguf", seen.append)
    assert path.stat().st_size == len(content)
    (gone_on,) = hub.gets(path.name)[1:]
    assert gone_on.range is not None
    assert seen[0].done_bytes >= 10_000_000


INTERRUPTED = """
import glob, os, signal, subprocess, sys, time
process = subprocess.Popen(sys.argv[1:])
part = os.path.join(os.environ["HF_HOME"], "hub", "*", "blobs", "*.rstar.incomplete")
until = time.monotonic() + 40
while not any(os.path.getsize(one) for one in glob.glob(part)) and time.monotonic() < until:
    time.sleep(0.02)
process.send_signal(signal.SIGINT)
sys.exit(process.wait())
"""


def wait_for(hub: Hub) -> None:
    """Until a model's content is asked for."""
    until = time.monotonic() + 30
    while not hub.gets(".gguf") and time.monotonic() < until:
        time.sleep(0.01)


def test_a_cancelled_connection_stops_its_download(hub: Hub) -> None:
    hub.repos["org/m-gguf"] = Repo({"m-q4_k_m.gguf": b"GGUF" + bytes(60_000_000)})
    hub.pause_s = 0.01

    async def begun_and_cancelled() -> None:
        work = asyncio.create_task(connect(ModelConfig(url="hf:org/m-gguf")))
        await asyncio.to_thread(wait_for, hub)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    began = time.monotonic()
    asyncio.run(begun_and_cancelled())
    assert time.monotonic() - began < 6  # the whole would take 9 s
    assert not is_on_disk("hf:org/m-gguf")
