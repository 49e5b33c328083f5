"""`rstar train` and `rstar deploy`."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from rstar_math.cli.options import (
    AsJson,
    TrackerNames,
    TrackerRun,
    parse_section,
    print_json,
    tracked_run,
)
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
        help="Initial model: local (embedded), trained (embedded, fine-tuned), a short name from "
        "rstar models list, a .gguf file, a checkpoint folder, or hf:ORG/NAME.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", metavar="DIR", help="Output folder of the model.", show_default=False
    ),
]
Estimate = Annotated[
    bool,
    typer.Option("--estimate", help="Only print the required and the free memory."),
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one option, for example learning_rate=1e-5. Repeatable.",
    ),
]
_EXAMPLE = "epochs=1"


@app.command("policy")
def policy(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="Output of rstar curate: the folder or its sft.jsonl."),
    ],
    out: Out = None,
    base: Base = "local",
    annotated: Annotated[
        bool,
        typer.Option(
            "--annotated",
            help="DATA is a file of problems with solutions annotated as in GSM8K, which are "
            "converted to code steps.",
        ),
    ] = False,
    estimate: Estimate = False,
    set_: Sets = None,
    tracker: TrackerNames = None,
    tracker_run: TrackerRun = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune a policy on solutions. Program output is excluded from the loss.

    The command can be interrupted; run it again to resume.
    """
    from rstar_math.tracking import track_trainings
    from rstar_math.training.rows import SftRow, read_rows
    from rstar_math.training.settings import PolicyTraining
    from rstar_math.training.sft import plan_policy, train_policy

    settings = parse_section(PolicyTraining, set_ or (), _EXAMPLE)
    rows = _read_annotated(data) if annotated else read_rows(_data_file(data, "sft"), SftRow)
    if estimate:
        _print_plan(plan_policy(rows, base, settings), as_json)
        return
    folder = _require_out(out)
    with track_trainings(tracked_run(tracker, tracker_run, folder.name)):
        report = train_policy(rows, base, folder, settings, log=_log)
    _print_report(report, folder, as_json)


@app.command("ppm")
def ppm(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="Output of rstar curate: the folder, or its file for the objective.",
        ),
    ],
    out: Out = None,
    base: Base = "local",
    objective: Annotated[
        Literal["ppm", "orm", "pqm"],
        typer.Option(
            help="Objective: preference pairs (ppm), outcomes of solutions (orm) or Q values (pqm)."
        ),
    ] = "ppm",
    probe: Annotated[
        bool,
        typer.Option("--probe", help="Train only a head on the policy's frozen hidden states."),
    ] = False,
    estimate: Estimate = False,
    set_: Sets = None,
    tracker: TrackerNames = None,
    tracker_run: TrackerRun = None,
    as_json: AsJson = False,
) -> None:
    """Train a process preference model, an outcome reward model or a Q-value model.

    Use the policy of the same round as --base. Ranking accuracy is measured on held-out problems.
    The command can be interrupted; run it again to resume.
    """
    from rstar_math.tracking import track_trainings
    from rstar_math.training.preference import OBJECTIVE_ROWS, plan_preference, train_preference
    from rstar_math.training.probe import train_probe
    from rstar_math.training.rows import read_rows
    from rstar_math.training.settings import PreferenceTraining, ProbeTraining

    name = {"ppm": "preference", "orm": "outcome", "pqm": "value"}[objective]
    kind: type[ProbeTraining | PreferenceTraining] = ProbeTraining if probe else PreferenceTraining
    settings = parse_section(kind, set_ or (), _EXAMPLE)
    rows: Any = read_rows(_data_file(data, name), OBJECTIVE_ROWS[objective])
    if isinstance(settings, ProbeTraining):
        if estimate:
            raise ConfigError("--estimate does not support --probe; omit one of them.")
        folder = _require_out(out)
        with track_trainings(tracked_run(tracker, tracker_run, folder.name)):
            report = train_probe(rows, base, folder, settings, log=_log)
        _print_report(report, folder, as_json)
        return
    assert isinstance(settings, PreferenceTraining)
    settings = settings.model_copy(update={"objective": objective})
    if estimate:
        _print_plan(plan_preference(rows, base, settings), as_json)
        return
    folder = _require_out(out)
    with track_trainings(tracked_run(tracker, tracker_run, folder.name)):
        report = train_preference(rows, base, folder, settings, log=_log)
    _print_report(report, folder, as_json)


def _require_out(out: Path | None) -> Path:
    """The output folder. Raises `ConfigError` if it is missing."""
    if out is None:
        raise ConfigError(
            "The option --out is missing; pass --out DIR, the output folder of the model."
        )
    return out


def _data_file(data: Path, name: str) -> Path:
    """The data file: the path itself, or the file `name` in a folder of rstar curate.

    Raises `InputError` if it does not exist.
    """
    from rstar_math.errors import InputError
    from rstar_math.training.dataset import MANIFEST_FILE, read_manifest

    path = data / f"{name}.jsonl" if data.is_dir() else data
    if not path.is_file() and (data / MANIFEST_FILE).is_file():
        kinds = [entry["data"] for entry in read_manifest(data)["files"].values()]
        raise InputError(
            f"{data} has no {name} data in JSONL (it has {', '.join(kinds) or 'no data'}); run "
            f"rstar curate with --data {name}, on a run in which some problems have right and "
            "wrong solutions."
        )
    if not path.is_file():
        raise InputError(
            f"There is no file {path}; create it with rstar curate RUN --out {data} (format jsonl)."
        )
    return path


def _read_annotated(path: Path) -> "list[SftRow]":
    """The rows of a file with annotated solutions. Prints how many are used.

    Raises `InputError` if none can be used.
    """
    from rstar_math.errors import InputError
    from rstar_math.problems.sources import read_solutions
    from rstar_math.training.rows import annotated_rows

    solutions = list(read_solutions(str(path)))
    rows, reasons = annotated_rows(solutions)
    _log(f"{len(rows)} of {len(solutions)} solutions are used; dropped: {reasons or 'none'}")
    if not rows:
        raise InputError(f"No solution in {path} has usable annotations; see the counts above.")
    return rows


def _log(line: str) -> None:
    """Print a line on stderr, in the main process only."""
    if _is_main_process():
        print(line, file=sys.stderr)


def _is_main_process() -> bool:
    """Whether this process has rank 0 in a distributed training."""
    return os.environ.get("RANK", "0") == "0"


def _print_plan(plan: "MemoryPlan", as_json: bool) -> None:
    """Print the memory that a training requires."""
    if not _is_main_process():
        return
    report = plan.report()
    if as_json:
        print_json(report)
        return
    from rstar_math.cli.display import out as console

    rows, tokens = plan.micro_batch
    console.print(
        f"{report['parameters'] / 1e6:.0f} million parameters in {plan.dtype}; the largest "
        f"micro-batch has {rows} rows of {tokens} tokens."
    )
    for name, size in report["need"].items():
        console.print(f"{name:12} {size / 1e9:7.2f} GB")
    if plan.free is not None:
        console.print(f"{'free':12} {plan.free[0] / 1e9:7.2f} GB of {plan.free[1]}")
    console.print(
        "The training fits into memory." if report["fits"] else "The training does not fit."
    )


def _print_report(report: dict[str, Any], out: Path, as_json: bool) -> None:
    """Print the results of a training."""
    if not _is_main_process():
        return
    if as_json:
        print_json({"out": str(out), **report})
        return
    from rstar_math.cli.display import out as console

    for name, value in report.items():
        if name == "held_out" and not value["problems"]:
            console.print("held out: no problem; raise held_out or train on more problems")
        elif name == "held_out":
            for metric, figure in value.items():
                if metric != "calibration":
                    console.print(f"held out: {metric} {_format(figure)}")
            for row in value["calibration"]:
                console.print(
                    f"  predicted {row['predicted']:.2f}, observed {row['seen']:.2f} "
                    f"({row['count']})"
                )
        elif name != "losses":
            console.print(f"{name.replace('_', ' ')}: {_format(value)}")
    console.print(f"Written to {out}.")


def _format(value: Any) -> str:
    """A figure as text; floats have 4 decimals."""
    return f"{value:.4f}" if isinstance(value, float) else str(value)


AdapterBase = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="With --adapter: write the difference to this model (local, a short name from rstar "
        "models list or a .gguf file) instead of the trained adapter.",
    ),
]


def deploy(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="Folder of rstar train policy or rstar train ppm."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Output .gguf file, or output folder with another --format.",
        ),
    ],
    kind: Annotated[
        Literal["f32", "f16", "q8_0"] | None,
        typer.Option(
            help="Weight format of the .gguf file; q8_0 uses one byte per weight.",
            show_default="q8_0; f16 for adapters",
        ),
    ] = None,
    adapter: Annotated[
        bool,
        typer.Option("--adapter", help="Write only the LoRA adapter, to use with its base model."),
    ] = False,
    form: Annotated[
        Literal["gguf", "peft", "int8", "backbone"],
        typer.Option(
            "--format",
            help="gguf: a file for llama.cpp. peft (with --adapter): a folder for vLLM's "
            "--lora-modules. int8: a checkpoint folder with 8-bit weights for vllm serve. "
            "backbone: a reward model without its head, whose hidden states vLLM serves.",
        ),
    ] = "gguf",
    base: AdapterBase = None,
    rank: Annotated[
        int, typer.Option(min=1, metavar="N", help="Rank of the adapter that --base writes.")
    ] = 16,
    as_json: AsJson = False,
) -> None:
    """Export a trained policy or preference model for llama.cpp or vLLM.

    Use the .gguf file of a policy with --model FILE, of a preference model with --set
    search.ppm=FILE, and of an adapter with --set model.adapter=FILE. vLLM can serve checkpoint
    folders without export.
    """
    _check_options(form, checkpoint, out, adapter=adapter, for_gguf=(kind, base))
    if form == "peft":
        return _deploy_peft(checkpoint, out, as_json)
    if form == "int8":
        return _deploy_int8(checkpoint, out, as_json)
    if form == "backbone":
        return _deploy_backbone(checkpoint, out, as_json)
    share = _write_gguf(checkpoint, out, kind, adapter, (base, rank))
    return _print_gguf(out, adapter, share, as_json)


def _check_options(
    form: str, checkpoint: Path, out: Path, *, adapter: bool, for_gguf: tuple[str | None, ...]
) -> None:
    """Raises `ConfigError` for options that cannot be combined."""
    if form == "peft":
        if not adapter:
            raise ConfigError(
                "--format peft requires --adapter; add it, or serve the checkpoint folder itself: "
                f"vllm serve {checkpoint}."
            )
        if any(for_gguf):
            raise ConfigError("--kind and --base require --format gguf; omit them.")
    elif form in ("int8", "backbone"):
        if adapter or any(for_gguf):
            raise ConfigError(
                f"--adapter, --kind and --base cannot be combined with --format {form}; omit them."
            )
    elif out.suffix != ".gguf":
        raise ConfigError(f"--out {out} must end in .gguf; rename it.")
    elif for_gguf[1] is not None and not adapter:
        raise ConfigError("--base requires --adapter; add --adapter, or omit --base.")


def _write_gguf(
    checkpoint: Path,
    out: Path,
    kind: Literal["f32", "f16", "q8_0"] | None,
    adapter: bool,
    relative: tuple[str | None, int],
) -> float | None:
    """Write the .gguf file.

    `relative` is the base and the rank of an adapter that approximates a difference. Returns the
    share of the difference that such an adapter holds, else None.
    """
    from rstar_math.checkpoints.gguf_adapters import extract_adapter, write_adapter
    from rstar_math.checkpoints.gguf_export import write_gguf

    base, rank = relative
    if base is not None:
        file = _base_file(base)
        return extract_adapter(checkpoint, out, base=file, rank=rank, kind=kind or "f16")
    if adapter:
        write_adapter(checkpoint, out, kind=kind or "f16")
    else:
        write_gguf(checkpoint, out, kind=kind or "q8_0")
    return None


def _deploy_int8(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write a checkpoint with 8-bit weights and print how to serve it."""
    from rstar_math.checkpoints.vllm_export import write_int8

    write_int8(checkpoint, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        print_json({"out": str(out), "kind": "policy", "format": "int8", "bytes": size})
        return
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); serve it with vllm serve {out}.")


def _deploy_backbone(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write a reward model without its head and print how to serve it."""
    from rstar_math.checkpoints.headless import write_backbone

    write_backbone(checkpoint, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        print_json({"out": str(out), "kind": "prm", "format": "backbone", "bytes": size})
        return
    typer.echo(
        f"Written to {out} ({size / 1e6:.1f} MB); serve it with vllm serve {out} --runner pooling "
        f"--convert embed, and use it with --set search.prm_head={checkpoint}."
    )


def _deploy_peft(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write an adapter folder for vLLM and print how to serve it."""
    from rstar_math.checkpoints.vllm_export import write_peft_adapter

    if out.suffix == ".gguf":
        raise ConfigError(f"--format peft writes a folder, not a file; change --out {out}.")
    written = write_peft_adapter(checkpoint, out)
    if as_json:
        facts = {"out": str(out), "kind": "policy", "adapter": True, "format": "peft"}
        print_json({**facts, "base": written.base, "rank": written.rank})
        return
    option = ""
    if written.rank > _VLLM_RANKS[0]:
        option = f" --max-lora-rank {_vllm_rank(written.rank)}"
    typer.echo(
        f"Written to {out}; serve it with vllm serve {written.base or 'BASE'} --enable-lora "
        f"--lora-modules {out.name}={out}{option}."
    )


_VLLM_RANKS = (16, 32, 64, 128, 256, 320, 512)
"""The values of vLLM's --max-lora-rank from its default upwards."""


def _vllm_rank(rank: int) -> int:
    """The smallest --max-lora-rank that allows a rank."""
    return next((limit for limit in _VLLM_RANKS if limit >= rank), rank)


def _base_file(base: str) -> str:
    """The .gguf file of a model name; "local" and files are returned unchanged."""
    from rstar_math.models.downloads import resolve_model
    from rstar_math.models.names import parse_name

    name = parse_name(base)
    return name.text if name.kind in ("packaged", "file") else str(resolve_model(name))


def _print_gguf(out: Path, adapter: bool, share: float | None, as_json: bool) -> None:
    """Print the written file and how to use it."""
    from rstar_math.checkpoints.tensors import read_header

    metadata = read_header(out).metadata
    kind, note = str(metadata["rstar.kind"]), metadata.get("rstar.tokenizer.note")
    size = out.stat().st_size
    if as_json:
        facts = {"out": str(out), "kind": kind, "adapter": adapter, "bytes": size}
        facts |= {} if note is None else {"note": note}
        print_json(facts if share is None else {**facts, "share_of_change": share})
        return
    use = {
        ("policy", False): f"--model {out}",
        ("policy", True): f"--set model.adapter={out}",
    }.get((kind, adapter), f"--set search.scorer=ppm --set search.ppm={out}")
    coverage = ""
    if share is not None:
        coverage = f" It holds {share:.1%} of the squared norm of the weight change."
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); use it with {use}.{coverage}")
    if note is not None:
        typer.echo(f"Note: {note}")
