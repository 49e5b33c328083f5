"""Files from somebody else: reading them changes nothing, fills no memory and runs nothing."""

import gzip
import json
import shutil
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest

from rstar_math.config import Config, load_config
from rstar_math.config.trust import require_trust
from rstar_math.errors import ConfigError, InputError, StoreError
from rstar_math.evaluation.interchange import write_inspect_logs
from rstar_math.evaluation.processbench import read_solutions
from rstar_math.evolution.recipe import load_recipe
from rstar_math.files import file_name, open_own
from rstar_math.models.loading import resolve_checkpoint
from rstar_math.problems.jsonl import read_problems
from rstar_math.prompts.prompt_sets import load_prompt_set
from rstar_math.runs import store
from rstar_math.runs.results import run_conditions
from rstar_math.runs.store import RunStore
from rstar_math.search import Choice, Tree
from rstar_math.training.curation import Curated, CurationConfig
from rstar_math.training.dataset import DatasetSource, write_folder
from rstar_math.training.rows import SftRow, read_rows
from rstar_math.types import Problem, Question, Step, Verdict

CONDITIONS = run_conditions(load_config(), guided=False)
PROBLEM = Problem(Question("p", "What is 1?"), "1")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "handed" / "run.rstar"
    with RunStore.open(path, CONDITIONS) as opened:
        opened.add_problems([PROBLEM])
        save(opened, "mcts")
    return path


def save(opened: RunStore, strategy: str) -> None:
    tree = Tree(PROBLEM.question)
    tree.add(0, Step(prose="It is \\boxed{1}", kind="answer", answer="1"))
    opened.save(strategy, tree, Choice("1", 1, 1.0, {"1": 1.0}), Verdict.RIGHT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def journal_that_deletes(victim: Path, database: bytes) -> bytes:
    """A hot rollback journal whose super-journal is a file of the user."""
    magic = bytes.fromhex("d9d505f920a163d7")
    numbers = (0, 0, len(database) // 4096, 512, 4096)
    header = magic + b"".join(n.to_bytes(4) for n in numbers)
    name = str(victim).encode()
    checksum = sum(name).to_bytes(4)
    super_journal = b"\0\0\0\x01" + name + len(name).to_bytes(4) + checksum + magic
    return header.ljust(512, b"\0") + super_journal


def test_reading_a_run_touches_nothing(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "diary.txt"
    victim.write_bytes(b"mine")
    journal = Path(f"{run}-journal")
    journal.write_bytes(journal_that_deletes(victim, run.read_bytes()))
    before = contents(tmp_path)
    naive = tmp_path / "naive" / "run.rstar"
    naive.parent.mkdir()
    other = tmp_path / "naive" / "diary.txt"
    other.write_bytes(b"mine")
    naive.write_bytes(run.read_bytes())
    Path(f"{naive}-journal").write_bytes(journal_that_deletes(other, naive.read_bytes()))
    sqlite3.connect(naive).execute("SELECT count(*) FROM results")
    assert not other.exists()  # what SQLite does by itself
    shutil.rmtree(naive.parent)
    with RunStore.read(run) as opened:
        assert opened.strategies() == ["mcts"]
        assert len(opened.tree("p", "mcts")) == 2
    assert contents(tmp_path) == before


def test_writing_to_a_run_with_a_foreign_journal_is_refused(run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "diary.txt"
    victim.write_bytes(b"mine")
    Path(f"{run}-journal").write_bytes(journal_that_deletes(victim, run.read_bytes()))
    with pytest.raises(StoreError, match=r"-journal was not written by rstar-math; delete it"):
        RunStore.open(run, CONDITIONS)
    assert victim.read_bytes() == b"mine"


KILLED_AT_THE_START = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
for statement in sys.argv[2].split(";"):
    db.execute(statement)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("page", ["", "VACUUM;"], ids=["no bytes", "one empty page"])
def test_the_journal_of_a_run_that_was_killed_at_its_start(tmp_path: Path, page: str) -> None:
    path = tmp_path / "new.rstar"
    script = f"{page}BEGIN IMMEDIATE;PRAGMA user_version = 1"
    subprocess.run([sys.executable, "-c", KILLED_AT_THE_START, path, script], check=False)
    journal = Path(f"{path}-journal")
    assert journal.exists()
    assert path.exists()
    before = (path.read_bytes(), journal.read_bytes())
    with pytest.raises(StoreError, match="nothing is lost") as caught:
        RunStore.open(path, CONDITIONS)
    assert str(journal) in str(caught.value)
    assert (path.read_bytes(), journal.read_bytes()) == before
    journal.unlink()  # as the sentence says
    path.unlink()
    with RunStore.open(path, CONDITIONS) as opened:
        opened.add_problems([PROBLEM])


def test_a_reader_sees_what_a_later_writer_adds(run: Path) -> None:
    with RunStore.read(run) as reader:
        first = reader.version()
        assert reader.version() == first
        with RunStore.open(run, CONDITIONS) as writer:
            save(writer, "sc@8")
            second = reader.version()
            assert second != first
            assert reader.strategies() == ["mcts", "sc@8"]
            save(writer, "greedy")
            assert reader.version() != second
            assert reader.strategies() == ["mcts", "sc@8", "greedy"]
        reader.version()
        assert reader.strategies() == ["mcts", "sc@8", "greedy"]
    assert not Path(f"{run}-wal").exists() or Path(f"{run}-wal").stat().st_size == 0


@pytest.mark.parametrize(
    "change",
    [
        "DROP TABLE results; CREATE VIEW results AS WITH RECURSIVE r(n) AS "
        "(SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT n AS problem FROM r",
        "CREATE TRIGGER t AFTER INSERT ON results BEGIN DELETE FROM problems; END",
        "CREATE VIRTUAL TABLE f USING fts5(x)",
        "CREATE TABLE more (a)",
        "ALTER TABLE meta ADD COLUMN a TEXT",
        "CREATE INDEX i ON results (upper(answer))",
        "DROP TABLE meta",
    ],
)
def test_other_tables_are_refused(run: Path, change: str) -> None:
    db = sqlite3.connect(run)
    db.executescript(change)
    db.close()
    with pytest.raises(StoreError, match="other tables than rstar-math writes"):
        RunStore.read(run)
    with pytest.raises(StoreError, match="other tables than rstar-math writes"):
        RunStore.open(run, CONDITIONS)


def test_a_tree_that_inflates_without_bound_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MAX_TREE_BYTES", 1 << 20)
    bomb = zlib.compress(b'{"x": "' + b" " * (64 << 20) + b'"}', 9)
    db = sqlite3.connect(run)
    db.execute("UPDATE results SET tree = ?", (bomb,))
    db.commit()
    db.close()
    with (
        RunStore.read(run) as opened,
        pytest.raises(StoreError, match="unpacks to more than 1 MiB"),
    ):
        opened.tree("p", "mcts")


def test_a_tree_that_is_cut_off_is_damaged(run: Path) -> None:
    db = sqlite3.connect(run)
    db.execute("UPDATE results SET tree = substr(tree, 1, length(tree) - 6)")
    db.commit()
    db.close()
    with RunStore.read(run) as opened, pytest.raises(StoreError, match="cut off"):
        opened.tree("p", "mcts")


READERS: list[Callable[[Path], object]] = [
    read_problems,
    read_solutions,
    lambda path: read_rows(path, SftRow),
]


@pytest.mark.parametrize("read", READERS)
def test_a_gzip_bomb_is_refused_early(read: Callable[[Path], object], tmp_path: Path) -> None:
    row = b'{"problem": "1?", "id": "x%d", "steps": ["a"], "label": 0, "extra": "%s"}\n'
    row = row.replace(b"%s", b" " * 3_900_000)
    if read is not read_problems and read is not read_solutions:
        row = b" " * 3_900_000 + b"\n"
    path = tmp_path / "bomb.jsonl.gz"
    path.write_bytes(b"".join(gzip.compress(row.replace(b"%d", b"%d" % n)) for n in range(18)))
    with pytest.raises(InputError, match="unpacks to more than"):
        read(path)
    path.write_bytes(gzip.compress(b" " * 5_000_000))
    with pytest.raises(InputError, match="longer than"):
        read(path)


DANGEROUS = [
    ('[servers]\nvllm_command = ["sh", "-c", "id"]', "servers.vllm_command", "runs a program"),
    ('[servers]\nargs = ["--trust-remote-code"]', "servers.args", "a server program its options"),
    ('[servers]\nhardware_args = ["-x"]', "servers.hardware_args", "a server program its options"),
    ('[sandbox]\nmode = "external"', "sandbox.mode", "weakens the sandbox"),
    ('[sandbox]\nmode = "namespaces"', "sandbox.mode", "weakens the sandbox"),
    ('[model]\napi_key_env = "AWS_SECRET"', "model.api_key_env", "a variable of your environment"),
    ('[discriminator]\napi_key_env = "A"', "discriminator.api_key_env", "a variable"),
    ('[model]\nurl = "https://evil.example/v1"', "model.url", "receive the key in OPENAI_API_KEY"),
    ('[model]\nurl = "http://127.0.0.1/v1,http://10.0.0.1/v1"', "model.url", "receive the key"),
    ('[search]\nscorer = "evil:factory"', "search.scorer", "imports code"),
    ('[search]\nselection = "os.path:join"', "search.selection", "imports code"),
    ('[search]\nstrategy = "sc@8,evil:SPEC@4"', "search.strategy", "imports code"),
    ('[actions]\nenabled = ["A1", "evil:ACTION"]', "actions.enabled", "imports code"),
]


@pytest.mark.parametrize(("text", "key", "reason"), DANGEROUS)
def test_a_configuration_file_is_data(
    text: str, key: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = tmp_path / "theirs.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"sets {key}, which .*{reason}.*--trust-config"):
        load_config(str(file))
    section = text.partition("]")[0].removeprefix("[")
    assert getattr(load_config(str(file), trusted=True), section) != getattr(Config(), section)


def test_what_the_command_line_says_is_the_users_word(tmp_path: Path) -> None:
    file = tmp_path / "theirs.toml"
    file.write_text('[sandbox]\nmode = "external"\n[search]\nrollouts = 3\n')
    config = load_config(str(file), ["sandbox.mode=strict"])
    assert (config.sandbox.mode, config.search.rollouts) == ("strict", 3)
    assert load_config(None, ["sandbox.mode=external"]).sandbox.mode == "external"


@pytest.mark.parametrize(
    "text",
    [
        '[model]\nurl = "http://localhost:8000/v1"',
        '[model]\nurl = "http://[::1]:8000/v1"',
        '[model]\nurl = "hf:Org/Name"',
        '[search]\nscorer = "self"\nstrategy = "mcts@16x4,sc@8"',
    ],
)
def test_harmless_files_need_no_word(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = tmp_path / "mine.toml"
    file.write_text(text)
    load_config(str(file))


def test_a_recipe_is_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    file = tmp_path / "theirs.toml"
    recipe = Path(str(files("rstar_math.evolution") / "recipes" / "smoke.toml")).read_text()
    for text, key in (
        ('launcher = ["sh", "-c", "id"]\n' + recipe, "launcher"),
        (recipe + '\n[sandbox]\nmode = "external"\n', "sandbox.mode"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f"sets {key}, which"):
            load_recipe(str(file))
        load_recipe(str(file), trusted=True)
    file.write_text(recipe)
    load_recipe(str(file))
    for key, value in (
        ("evaluation.system", ["sc@8,evil:SPEC"]),
        ("evaluation.policy", ["evil:SPEC@4"]),
        ("evaluation.benchmarks.source", "evil:function"),
        ("synthesis.model.url", "https://evil.example/v1"),
        ("base_model", "https://evil.example/v1"),
    ):
        table: object = value
        for name in reversed(key.split(".")):
            table = {name: table}
        assert isinstance(table, dict)
        with pytest.raises(ConfigError, match=f"sets {key}, which"):
            require_trust(table, "theirs.toml")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sc@8", "sc-8"),
        ("mcts@16x4", "mcts-16x4"),
        ("../../etc/passwd", "etc-passwd"),
        ("/root/.ssh/id", "root-.ssh-id"),
        ("..", "unnamed"),
        (".hidden", "hidden"),
        ("a\x00b\nc", "a-b-c"),
        ("module:SPEC@8", "module-SPEC-8"),
    ],
)
def test_a_file_name_from_data_is_only_a_name(text: str, name: str) -> None:
    assert file_name(text) == name


def test_long_file_names_stay_different() -> None:
    names = {file_name("x" * 500 + end) for end in "ab"}
    assert len(names) == 2
    assert max(map(len, names)) <= 100


def test_reports_stay_in_their_folder(run: Path, tmp_path: Path) -> None:
    with RunStore.open(run, CONDITIONS) as opened:
        save(opened, "../../../outside@8")
    before = {str(p) for p in tmp_path.rglob("*")}
    folder = tmp_path / "deep" / "report"
    written = write_inspect_logs(run, folder)
    assert len(written) == 2
    new = {str(p) for p in tmp_path.rglob("*")} - before
    assert new == {str(tmp_path / "deep"), str(folder), *map(str, written)}
    assert all(path.parent == folder for path in written)


CONFIGS: list[tuple[dict[str, object], str]] = [
    ({"model_type": "llama", "num_hidden_layers": 10_000_000}, "num_hidden_layers"),
    ({"model_type": "llama", "vocab_size": 10**12}, "vocab_size"),
    ({"model_type": "llama", "hidden_size": -1}, "hidden_size"),
    ({"text_config": {"num_hidden_layers": 10**9}}, "num_hidden_layers"),
]


@pytest.mark.parametrize(("content", "key"), CONFIGS)
def test_sizes_that_no_model_has_are_refused(
    content: dict[str, object], key: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"has {key} = .*, which no model has"):
        resolve_checkpoint(str(tmp_path))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\xff", '"text"', "[1]"])
def test_a_broken_config_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"config.json cannot be read \([^\n]*\)"):
        resolve_checkpoint(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 9_000, "a = " + "{a=" * 9_000, "a." * 9_000 + "b = 1", f"[{'a.' * 9_000}a]"],
    ids=["arrays", "tables", "a dotted key", "a dotted table"],
)
def test_deep_toml_is_one_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "deep.toml"
    file.write_text(text)
    for load in (load_config, load_recipe, load_prompt_set):
        with pytest.raises(ConfigError, match="nested too deeply"):
            load(str(file))


def test_a_planted_manifest_lets_nothing_be_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    origin = DatasetSource("r", "0", {}, ())
    write_folder(folder, Curated(), origin, CurationConfig())
    write_folder(folder, Curated(), origin, CurationConfig())  # its own files may be replaced
    manifest = json.loads((folder / "curation.json").read_text())
    for name, content in (("diary.txt", "mine"), ("README.md", "my notes")):
        (folder / name).write_text(content)
        manifest["files"] = {name: {"data": "sft", "rows": 1, "sha256": "0" * 64}}
        (folder / "curation.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match="other files"):
            write_folder(folder, Curated(), origin, CurationConfig())
        assert (folder / name).read_text() == content
        (folder / name).unlink()
    (folder / "photos").mkdir()
    manifest["files"] = {"photos": {"data": "sft", "rows": 1, "sha256": "0" * 64}}
    (folder / "curation.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="other files"):
        write_folder(folder, Curated(), origin, CurationConfig())


def test_a_symbolic_link_in_a_shared_folder_is_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "lock").symlink_to(mine)
    (tmp_path / "dangling").symlink_to(tmp_path / "absent")
    for name in ("lock", "dangling"):
        with pytest.raises(OSError, match="symbolic links"):
            open_own(tmp_path / name)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "absent").exists()
    for _ in range(2):
        with open_own(tmp_path / "own") as file:
            file.write(b"a")
    assert (tmp_path / "own").read_bytes() == b"aa"
