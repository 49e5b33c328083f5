"""The viewer's server: what it gives, to whom, and what it refuses."""

import asyncio
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import process_time
from typing import Any

import httpx
import pytest

from rstar_math.errors import InputError, StoreError
from rstar_math.runs.store import RunStore
from rstar_math.types import Problem, Question, Verdict
from rstar_math.viewer.app import viewer_app
from rstar_math.viewer.export import policy
from tests.integration.viewer.runs import chosen, grown, write_large, write_pair

LOCKS = Path("/proc/locks")
"""What the kernel tells of who writes; some sandboxes have none, and then no run is said to be
written."""


class Client:
    """Asks the app as a browser on this machine does."""

    def __init__(self, *paths: Path) -> None:
        self.app: Any = viewer_app(paths)

    def ask(
        self, path: str = "/", method: str = "GET", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """One request."""

        async def work() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            url = "http://127.0.0.1:8000"
            async with httpx.AsyncClient(transport=transport, base_url=url) as client:
                return await client.request(method, path, headers=headers)

        return asyncio.run(work())

    def index(self, since: int = 0) -> Any:
        """The list."""
        return self.ask(f"/index?since={since}").json()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def client(pair: tuple[Path, Path]) -> Client:
    return Client(*pair)


def test_the_page_runs_its_own_script_and_loads_nothing(client: Client) -> None:
    page = client.ask()
    assert page.status_code == 200
    sent = page.headers["content-security-policy"]
    assert sent.startswith(policy(live=True))
    assert "default-src 'none'" in sent
    assert "'unsafe" not in sent
    assert "frame-ancestors 'none'" in sent
    for name, value in {
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "cache-control": "no-store",
    }.items():
        assert page.headers[name] == value
    assert "access-control-allow-origin" not in page.headers
    assert "http://" not in page.text.replace("http://www.w3.org/", "")
    assert "https://" not in page.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example:8000"},
        {"Host": "10.0.0.1"},
        {"Host": "127.0.0.1.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/index", "/fragment/overview"])
def test_other_sites_are_refused(client: Client, path: str, headers: dict[str, str]) -> None:
    answer = client.ask(path, headers=headers)
    assert answer.status_code == 403
    assert set(answer.json()) == {"error"}


def test_a_link_from_elsewhere_may_be_followed(client: Client) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.ask(headers=link | {"Sec-Fetch-Dest": "document"}).status_code == 200
    assert client.ask(headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_started_or_changed(client: Client, method: str) -> None:
    for path in ("/", "/index", "/fragment/overview", "/v1/chat/completions"):
        assert client.ask(path, method).status_code in (404, 405)


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "problem/99",
        "problem/-1",
        "problem/x",
        "result/0/9.9",
        "lines/0/0.0/99",
        "lines/0/0.0/-1",
        "lines/0/0.0",
        "tree/0/0.0/0",
        "problem",
        "..%2f..%2fetc",
    ],
)
def test_a_piece_that_is_none_is_refused_with_a_sentence(client: Client, name: str) -> None:
    answer = client.ask(f"/fragment/{name}")
    assert answer.status_code == 404
    assert "reload" in answer.json()["error"]["message"]


def test_the_list_and_the_pieces(client: Client) -> None:
    index = client.index()
    assert [column["strategy"] for column in index["columns"]] == ["sc@4", "mcts"] * 2
    assert len(index["rows"]) == 8
    assert client.index(index["edition"]).keys() == {"edition", "writing"}
    assert client.ask("/index?since=nonsense").json()["rows"]
    assert "Why this answer won" in client.ask("/fragment/result/0/0.1").text
    shape = client.ask("/fragment/tree/0/0.1").json()
    lines = client.ask("/fragment/lines/0/0.1/0").json()
    assert len(lines) == len(shape["parents"]) == len(shape["marks"])
    assert all("N " in line for line in lines)
    assert sum("chosen" in line for line in lines) == len(shape["chosen"])
    steps = client.ask("/fragment/steps/0/0.1/0").json()
    assert any('class="code"' in step for step in steps)


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[RunStore]:
    with RunStore.open(tmp_path / "run.rstar", {}) as store:
        store.add_problems(Problem(Question(f"grow/{i}", f"Number {i}?"), "3") for i in range(4))
        yield store


def put(store: RunStore, number: int) -> None:
    tree = grown(20)
    tree.question = Question(f"grow/{number}", f"Number {number}?")
    store.save("mcts", tree, chosen(tree), Verdict.RIGHT)


def test_a_run_that_grows_sends_what_is_new(growing: RunStore) -> None:
    client = Client(growing.path)
    first = client.index()
    assert first["writing"] == LOCKS.exists()
    assert first["columns"] == []
    assert [row["flags"] for row in first["rows"]] == [["waiting"]] * 4
    put(growing, 2)
    second = client.index(first["edition"])
    assert second["edition"] > first["edition"]
    assert [row["i"] for row in second["rows"]] == [0, 1, 2, 3]  # all have a new column
    put(growing, 0)
    third = client.index(second["edition"])
    assert [row["i"] for row in third["rows"]] == [0]
    growing.add_problems([Problem(Question("grow/new", "New?"))])
    fourth = client.index(third["edition"])
    assert [row["i"] for row in fourth["rows"]] == [4]
    assert client.index(10**12)["rows"]  # a page that saw another server begins anew
    growing.close()
    assert not client.index(fourth["edition"])["writing"]


def test_a_search_under_way_is_a_tree_before_it_is_a_result(growing: RunStore) -> None:
    client = Client(growing.path)
    first = client.index()
    journal = growing.growing_trees().open("grow/1", "mcts")
    for size in (5, 9):
        journal.tree = grown(size)
        growing.growing.write_preview(journal)
        index = client.index(first["edition"])
        (column,) = index["columns"]
        assert (column["key"], column["done"]) == ("0.0", 0)
        cells = [row["cells"]["0.0"] for row in index["rows"] if row["i"] == 1]
        assert cells[0][0] == "growing"
        assert cells[0][1] > 0
        assert len(client.ask("/fragment/tree/1/0.0").json()["parents"]) == size
        assert "So far" in client.ask("/fragment/result/1/0.0").text
    again = client.index(index["edition"])
    journal.tree = grown(13)
    growing.growing.write_preview(journal)
    assert [row["i"] for row in client.index(again["edition"])["rows"]] == [1]
    journal.close()
    put(growing, 1)
    last = client.index(index["edition"])
    assert [column["key"] for column in last["columns"]] == ["0.0"]
    assert "Why this answer won" in client.ask("/fragment/result/1/0.0").text
    assert not growing.growing.folder.exists()


def test_an_evolution_is_seen_round_by_round(tmp_path: Path) -> None:
    write_large(tmp_path / "round-1" / "search.rstar", 10)
    client = Client(tmp_path)
    first = client.index()
    assert [column["label"] for column in first["columns"]] == ["mcts"]
    write_large(tmp_path / "round-2" / "search.rstar", 20)
    (tmp_path / "round-3").mkdir()
    (tmp_path / "round-3" / "search.rstar").touch()  # no run yet
    second = client.index(first["edition"])
    labels = [column["label"] for column in second["columns"]]
    assert labels == ["round-1/search.rstar: mcts", "round-2/search.rstar: mcts"]
    assert second["rows"][0]["cells"].keys() == {"0.0", "1.0"}
    assert "Rounds" not in client.ask("/fragment/overview").text
    rounds = {"rounds": [{"number": 1, "searched": 4, "solved": 1}]}
    (tmp_path / "report.json").write_text(json.dumps(rounds))
    assert client.index(second["edition"])["rows"] == []
    assert "<h3>Rounds</h3>" in client.ask("/fragment/overview").text


def test_a_tree_of_20000_nodes_is_sent_in_pieces(tmp_path: Path) -> None:
    client = Client(write_large(tmp_path / "large.rstar", 20_000))
    before = process_time()
    shape = client.ask("/fragment/tree/0/0.0").json()
    client.ask("/fragment/result/0/0.0")
    lines = client.ask("/fragment/lines/0/0.0/0").json()
    assert process_time() - before < 2.0  # measured: 0.4
    assert len(shape["parents"]) == 20_000
    assert len(lines) == 256


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no run"):
        viewer_app([tmp_path / "absent.rstar"])
    other = tmp_path / "other.txt"
    other.write_text("nothing of the kind")
    with pytest.raises(StoreError, match="not a run of rstar-math"):
        viewer_app([other])
    words = tmp_path / "words.json"
    for text in ('{"words": 1}', '{"tree": "3"}', '{"tree": "{"}', "[1]", "{", "{}\n{"):
        words.write_text(text)
        with pytest.raises(InputError, match="neither a run nor the JSON of a tree"):
            viewer_app([words])
    bare = {"format": 2, "question": {"id": "q", "text": "?"}, "rollouts": 0, "cost": {}}
    tree = {**bare, "nodes": [{"parent": -1}]}
    for around in (
        {"votes": "many"},
        {"votes": {"4": "many"}},
        {"votes": {"4": 1}, "node": 7},
        {"votes": {"4": 1}, "answer": 4},
        {"reference": 4},
    ):
        words.write_text(json.dumps({"tree": tree, **around}))
        with pytest.raises(InputError, match="neither a run nor the JSON of a tree"):
            viewer_app([words])
    words.write_text('{"format": 99, "nodes": []}')
    with pytest.raises(StoreError, match="format 99"):
        viewer_app([words])
    with pytest.raises(InputError, match="contains no run"):
        viewer_app([tmp_path])
