"""`rstar train` and `rstar deploy`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rstar_math.cli.options import AsJson, print_json, section_of
from rstar_math.errors import ConfigError

if TYPE_CHECKING:
    from rstar_math.training.memory import MemoryPlan
    from rstar_math.training.rows import SftRow

app = typer.Typer(help="Train a policy or a preference model.", no_args_is_help=True)
Base = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="MODEL",
        help="What to start from: local (embedded), trained (what this package taught it), a short "
        "name of rstar models list, a .gguf file, a checkpoint folder, hf:ORG/NAME.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="DIR", help="Where the model goes.", show_default=False),
]
Estimate = Annotated[
    bool,
    typer.Option(
        "--estimate", help="Print how much memory the training needs and what is free, and stop."
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Set one option, as in learning_rate=1e-5. Repeatable."
    ),
]
_EXAMPLE = "epochs=1"


@app.command("policy")
def policy(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="What rstar curate wrote: a folder or sft.jsonl.")
    ],
    out: Out = None,
    base: Base = "local",
    annotated: Annotated[
        bool,
        typer.Option(
            "--annotated",
            help="DATA holds problems with solutions marked as in GSM8K; they become code steps.",
        ),
    ] = False,
    estimate: Estimate = False,
    set_: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a policy on solutions; what programs printed is not trained on.

    A training that was stopped goes on when the same command is given again.
    """
    from rstar_math.training.rows import SftRow, read_rows
    from rstar_math.training.settings import PolicyTraining
    from rstar_math.training.sft import plan_policy, train_policy

    settings = section_of(PolicyTraining, set_ or (), _EXAMPLE)
    rows = _annotated(data) if annotated else read_rows(_file(data, "sft"), SftRow)
    if estimate:
        _print_plan(plan_policy(rows, base, settings), as_json)
        return
    place = _required(out)
    _print(train_policy(rows, base, place, settings, log=_say), place, as_json)


@app.command("ppm")
def ppm(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="What rstar curate wrote: a folder, or its file for the objective.",
        ),
    ],
    out: Out = None,
    base: Base = "local",
    objective: Annotated[
        Literal["ppm", "orm", "pqm"],
        typer.Option(
            help="Learn from pairs (ppm), outcomes of whole solutions (orm) or Q values (pqm)."
        ),
    ] = "ppm",
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Train only a head on the policy's frozen hidden states."),
    ] = False,
    estimate: Estimate = False,
    set_: Sets = None,
    as_json: AsJson = False,
) -> None:
    """Train a preference model, an outcome model or a model of Q values, or a probe of them.

    It starts from the round's policy. Ranking accuracy is measured on problems that are held out.
    A training that was stopped goes on when the same command is given again.
    """
    from rstar_math.training.preference import OBJECTIVE_ROWS, plan_preference, train_preference
    from rstar_math.training.probe import train_probe
    from rstar_math.training.rows import read_rows
    from rstar_math.training.settings import PreferenceTraining, ProbeTraining

    name = {"ppm": "preference", "orm": "outcome", "pqm": "value"}[objective]
    kind: type[ProbeTraining | PreferenceTraining] = ProbeTraining if probe else PreferenceTraining
    settings = section_of(kind, set_ or (), _EXAMPLE)
    rows: Any = read_rows(_file(data, name), OBJECTIVE_ROWS[objective])
    if isinstance(settings, ProbeTraining):
        if estimate:
            raise ConfigError("There is no estimate for a probe; leave out --estimate.")
        place = _required(out)
        _print(train_probe(rows, base, place, settings, log=_say), place, as_json)
        return
    assert isinstance(settings, PreferenceTraining)
    settings = settings.model_copy(update={"objective": objective})
    if estimate:
        _print_plan(plan_preference(rows, base, settings), as_json)
        return
    place = _required(out)
    _print(train_preference(rows, base, place, settings, log=_say), place, as_json)


def _required(out: Path | None) -> Path:
    """The place of a model that is to be trained."""
    if out is None:
        raise ConfigError("Training needs a place for the model; name one with --out DIR.")
    return out


def _file(data: Path, name: str) -> Path:
    """The file of one kind of data: the path itself, or its file in a folder of rstar curate."""
    from rstar_math.errors import InputError
    from rstar_math.training.dataset import MANIFEST_FILE, read_manifest

    path = data / f"{name}.jsonl" if data.is_dir() else data
    if not path.is_file() and (data / MANIFEST_FILE).is_file():
        there = [entry["data"] for entry in read_manifest(data)["files"].values()]
        raise InputError(
            f"{data} has no {name} data as jsonl (it has {', '.join(there) or 'none at all'}): "
            f"curate with --data {name}, from a run in which some problems have right and wrong "
            "solutions."
        )
    if not path.is_file():
        raise InputError(
            f"There is no file {path}; make it with rstar curate RUN --out {data} (as jsonl)."
        )
    return path


def _annotated(path: Path) -> "list[SftRow]":
    """The rows of a file of problems with annotated solutions; what is not used is counted."""
    from rstar_math.errors import InputError
    from rstar_math.problems.sources import read_solutions
    from rstar_math.training.rows import annotated_rows

    found = list(read_solutions(str(path)))
    rows, reasons = annotated_rows(found)
    _say(f"{len(rows)} of {len(found)} solutions are used; left out: {reasons or 'none'}")
    if not rows:
        raise InputError(f"No solution of {path} is annotated so that it can be used.")
    return rows


def _say(line: str) -> None:
    if _first():
        print(line, file=sys.stderr)


def _first() -> bool:
    """Whether this process speaks for a training of several."""
    return os.environ.get("RANK", "0") == "0"


def _print_plan(made: "MemoryPlan", as_json: bool) -> None:
    """Print what a training needs."""
    if not _first():
        return
    report = made.report()
    if as_json:
        print_json(report)
        return
    from rstar_math.cli.display import out as console

    rows, tokens = made.micro_batch
    console.print(
        f"{report['parameters'] / 1e6:.0f} million parameters in {made.dtype}; the largest "
        f"micro-batch has {rows} rows of {tokens} tokens."
    )
    for name, size in report["need"].items():
        console.print(f"{name:12} {size / 1e9:7.2f} GB")
    if made.free is not None:
        console.print(f"{'free':12} {made.free[0] / 1e9:7.2f} GB of {made.free[1]}")
    console.print("The training fits." if report["fits"] else "The training does not fit.")


def _print(report: dict[str, Any], out: Path, as_json: bool) -> None:
    if not _first():
        return
    if as_json:
        print_json({"out": str(out), **report})
        return
    from rstar_math.cli.display import out as console

    for name, value in report.items():
        if name == "held_out" and not value["problems"]:
            console.print("held out: no problem; set held_out higher, or learn from more problems")
        elif name == "held_out":
            for inner, figure in value.items():
                if inner != "calibration":
                    console.print(f"held out: {inner} {_figure(figure)}")
            for row in value["calibration"]:
                console.print(
                    f"  predicted {row['predicted']:.2f}, seen {row['seen']:.2f} ({row['count']})"
                )
        elif name != "losses":
            console.print(f"{name.replace('_', ' ')}: {_figure(value)}")
    console.print(f"Written to {out}.")


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


AdapterBase = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Write the adapter that makes the checkpoint of this model (local, a short name "
        "of rstar models list or a .gguf file), whatever it was trained in between.",
    ),
]


def deploy(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="What rstar train policy or ppm wrote.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="The .gguf file, or with --format peft or int8 the folder.",
        ),
    ],
    kind: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option(
            help="How weights are stored; a byte each in q8_0.",
            show_default="q8_0, f16 for adapters",
        ),
    ] = None,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Write only the LoRA adapter, for the model it came from."),
    ] = False,
    form: Annotated[
        Literal["gguf", "peft", "int8"],
        typer.Option(
            "--format",
            help="gguf: a file for llama.cpp. peft: with --adapter, a folder for vLLM's "
            "--lora-modules. int8: a checkpoint folder with 8-bit weights for vllm serve.",
        ),
    ] = "gguf",
    base: AdapterBase = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of that adapter.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Write a trained policy or preference model for llama.cpp, or a policy's adapter for vLLM.

    A policy's .gguf file is a --model; a preference model's goes to --set search.ppm=FILE, a
    policy's adapter to --set model.adapter=FILE. vLLM serves checkpoint folders as they are.
    """
    _check_deploy(form, checkpoint, out, adapter=adapter, for_gguf=(kind, base))
    if form == "peft":
        return _deploy_peft(checkpoint, out, as_json)
    if form == "int8":
        return _deploy_int8(checkpoint, out, as_json)
    share = _write(checkpoint, out, kind, adapter, (base, rank))
    return _tell(out, adapter, share, as_json)


def _check_deploy(
    form: str, checkpoint: Path, out: Path, *, adapter: bool, for_gguf: tuple[str | None, ...]
) -> None:
    """Raises `ConfigError` for options that do not go together."""
    from rstar_math.errors import ConfigError

    if form == "peft":
        if not adapter:
            raise ConfigError(
                "--format peft is for adapters; add --adapter, or serve the checkpoint folder "
                f"itself: vllm serve {checkpoint}."
            )
        if any(for_gguf):
            raise ConfigError("--kind and --base are for .gguf files; leave them out.")
    elif form == "int8":
        if adapter or any(for_gguf):
            raise ConfigError("--adapter, --kind and --base do not go with --format int8.")
    elif out.suffix != ".gguf":
        raise ConfigError(f"--out {out} does not end in .gguf; rename it.")
    elif for_gguf[1] is not None and not adapter:
        raise ConfigError("--base is for adapters; give --adapter too, or leave it out.")


def _write(
    checkpoint: Path,
    out: Path,
    kind: Literal["f32", "f16", "q8_0"] | None,
    adapter: bool,
    relative: tuple[str | None, int],
) -> float | None:
    """Write the .gguf file; of an adapter `relative` to a base and of a rank, the share of the
    change that it holds."""
    from rstar_math.checkpoints.gguf_adapters import extract_adapter, write_adapter
    from rstar_math.checkpoints.gguf_export import write_gguf

    base, rank = relative
    if base is not None:
        file = _file_of(base)
        return extract_adapter(checkpoint, out, base=file, rank=rank, kind=kind or "f16")
    if adapter:
        write_adapter(checkpoint, out, kind=kind or "f16")
    else:
        write_gguf(checkpoint, out, kind=kind or "q8_0")
    return None


def _deploy_int8(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write a checkpoint with 8-bit weights, and say how it is served."""
    from rstar_math.checkpoints.vllm_export import write_int8

    write_int8(checkpoint, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        print_json({"out": str(out), "kind": "policy", "format": "int8", "bytes": size})
        return
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); serve it with vllm serve {out}.")


def _deploy_peft(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write an adapter folder for vLLM, and say how it is served."""
    from rstar_math.checkpoints.vllm_export import write_peft_adapter
    from rstar_math.errors import ConfigError

    if out.suffix == ".gguf":
        raise ConfigError(f"--format peft writes a folder; name one instead of {out}.")
    written = write_peft_adapter(checkpoint, out)
    if as_json:
        told = {"out": str(out), "kind": "policy", "adapter": True, "format": "peft"}
        print_json({**told, "base": written.base, "rank": written.rank})
        return
    more = f" --max-lora-rank {_vllm_rank(written.rank)}" if written.rank > _VLLM_RANKS[0] else ""
    typer.echo(
        f"Written to {out}; serve it with vllm serve {written.base or 'BASE'} --enable-lora "
        f"--lora-modules {out.name}={out}{more}."
    )


_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's --max-lora-rank, from its default on."""


def _vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank that has room for a rank."""
    return next((most for most in _VLLM_RANKS if most >= rank), rank)


def _file_of(base: str) -> str:
    """The .gguf file of a name; "local" stays what it is."""
    from rstar_math.models.downloads import resolve_model
    from rstar_math.models.names import parse_name

    meant = parse_name(base)
    return meant.text if meant.kind in ("packaged", "file") else str(resolve_model(meant))


def _tell(out: Path, adapter: bool, share: float | None, as_json: bool) -> None:
    """Say what was written and how it is used."""
    from rstar_math.checkpoints.tensors import read_header

    facts = read_header(out).metadata
    what, note = str(facts["rstar.kind"]), facts.get("rstar.tokenizer.note")
    size = out.stat().st_size
    if as_json:
        told = {"out": str(out), "kind": what, "adapter": adapter, "bytes": size}
        told |= {} if note is None else {"note": note}
        print_json(told if share is None else {**told, "share_of_change": share})
        return
    use = {
        ("policy", False): f"--model {out}",
        ("policy", True): f"--set model.adapter={out}",
    }.get((what, adapter), f"--set search.scorer=ppm --set search.ppm={out}")
    holds = "" if share is None else f" It holds {share:.1%} of what was learned (squared size)."
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); use it with {use}.{holds}")
    if note is not None:
        typer.echo(f"Note: {note}")
