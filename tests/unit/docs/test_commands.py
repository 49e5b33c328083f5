"""Every command line of the documentation exists as it is written."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from docs.reference.commands import commands
from rstar_math.config import presets
from rstar_math.evolution.recipe import recipe_names
from tests.unit.docs.command_lines import all_options, benchmark_faults, command_lines, faults
from tests.unit.docs.pages import ROOT, WRITTEN, blocks, name, spans, text

PAGES = [name(path) for path in WRITTEN]
MISTAKES = "docs/troubleshooting.md"
"""Its commands are wrong on purpose; tests/e2e/test_troubleshooting.py runs them."""
FOREIGN_OPTIONS = {
    "--dtype", "--quantization", "--runner", "--embedding", "--pooling",  # vllm, llama-server
    "--gpu-memory-utilization", "--max-num-seqs", "--enforce-eager",  # vllm
    "--no-deps",  # pip
    "--model",  # inspect eval, as ours
    "--num-cpus",  # ray start
}  # fmt: skip


@pytest.mark.parametrize("page", [page for page in PAGES if page != MISTAKES])
def test_every_command_line_of_a_block_parses(page: str) -> None:
    found = [
        f"{' '.join(words)}: {fault}"
        for block in blocks(page)
        for words in command_lines(block.code, "rstar")
        for fault in faults(words)
    ]
    assert found == []


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.py")), ids=lambda f: f.name)
def test_every_command_line_of_an_example_parses(file: Path) -> None:
    doc = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    lines = "\n".join(line.strip() for line in doc.splitlines() if line.startswith("    "))
    assert [fault for words in command_lines(lines, "rstar") for fault in faults(words)] == []
    assert [
        f for words in command_lines(lines, "python") for f in benchmark_faults(words, ROOT)
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_within_the_text_exists(page: str) -> None:
    found = []
    for span in spans(page):
        for words in command_lines(span.replace("…", ""), "rstar"):
            verb, *rest = words or [""]
            for one in verb.split("|"):
                found += [f"{span}: {fault}" for fault in faults([one, *rest], whole=False)]
    assert found == []


@pytest.mark.parametrize("page", PAGES)
def test_every_option_within_the_text_exists(page: str) -> None:
    benchmarks = (ROOT / "benchmarks").rglob("*.py")
    sources = "".join(path.read_text(encoding="utf-8") for path in benchmarks)
    options = (re.match(r"--?[a-z][a-z-]*", span) for span in spans(page))
    unknown = {
        option[0]
        for option in options
        if option
        and option[0] not in all_options() | FOREIGN_OPTIONS
        and f'"{option[0]}"' not in sources
    }
    assert unknown == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_benchmark_target_and_extra_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z0-9 ]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    known = {word for target in targets for word in target.split()}
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    code = [block.code for block in blocks(page)] + list(spans(page))
    for one in code:
        for words in command_lines(one, "python"):
            assert benchmark_faults(words, ROOT) == []
        for words in command_lines(one, "make"):
            assert {word for word in words if "=" not in word} <= known
        for named in re.findall(r"rstar-math\[([\w,]+)\]|'\.\[([\w,]+)\]'", one):
            assert set("".join(named).split(",")) <= set(extras)


def test_every_command_preset_and_recipe_is_in_the_documentation() -> None:
    whole = "\n".join(text(page) for page in PAGES)
    lines = [
        words for page in PAGES for b in blocks(page) for words in command_lines(b.code, "rstar")
    ]
    shown = {" ".join(words[: len(verb.split())]) for words in lines for verb in commands()}
    assert set(commands()) - shown <= {"demo"}  # `make demo`
    assert [one for one in (*presets(), *recipe_names()) if f"`{one}`" not in whole] == []


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("rstar solve --modle x Q", "no option --modle"),
        ("rstar sovle Q", "no command"),
        ("rstar search p.jsonl", "needs RUN"),
        ("rstar solve", "needs"),
        ("rstar solve a b", "takes 1 arguments"),
        ("rstar solve Q --set search.rolouts=3", "nearest is search.rollouts"),
        ("rstar solve Q --set search.rollouts=0", "greater than or equal to 1"),
        ("rstar solve Q --strategy mtcs", "mtcs"),
        ("rstar solve Q --recipe rstr", "no preset"),
        ("rstar evolve smok --run x", "no recipe"),
        ("rstar evolve smoke --run x --set sft.epoch=1", "epoch"),
        ("rstar train ppm data --out x --set epoch=1", "epoch"),
        ("rstar curate run.rstar --out x --format xml", "none of"),
        ("rstar eval p.jsonl --limit few", "no number"),
    ],
)
def test_the_check_finds_what_is_wrong(line: str, fault: str) -> None:
    (words,) = command_lines(f"{line}   # with a remark", "rstar")
    assert fault in " ".join(faults(words))
