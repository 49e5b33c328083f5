"""`rstar deploy`: a trained model as one file that runs without torch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rstar_math.cli.options import AsJson, print_json


def deploy(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="What rstar train policy or ppm wrote.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE.gguf", help="Where the file goes.")
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
    base: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Write the adapter that makes the checkpoint of this model (local, a short name "
            "of rstar models list or a .gguf file), whatever it was trained in between.",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of that adapter.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Write a trained policy or preference model as a .gguf file for llama.cpp.

    A policy's file is a --model; a preference model's goes to --set search.ppm=FILE, a policy's
    adapter to --set model.adapter=FILE.
    """
    from rstar_math.errors import ConfigError
    from rstar_math.models.gguf_adapters import write_adapter
    from rstar_math.models.gguf_differences import write_difference
    from rstar_math.models.gguf_files import write_gguf

    if out.suffix != ".gguf":
        raise ConfigError(f"--out {out} does not end in .gguf; rename it.")
    base = None if base is None else _file_of(base)
    share = None
    if adapter and base is not None:
        share = write_difference(checkpoint, out, base=base, rank=rank, kind=kind or "f16")
    elif base is not None:
        raise ConfigError("--base is for adapters; give --adapter too, or leave it out.")
    elif adapter:
        write_adapter(checkpoint, out, kind=kind or "f16")
    else:
        write_gguf(checkpoint, out, kind=kind or "q8_0")
    _tell(out, adapter, share, as_json)


def _file_of(base: str) -> str:
    """The .gguf file of a name; "local" stays what it is."""
    from rstar_math.models.downloads import resolve_model
    from rstar_math.models.names import parse_name

    meant = parse_name(base)
    return meant.text if meant.kind in ("packaged", "file") else str(resolve_model(meant))


def _tell(out: Path, adapter: bool, share: float | None, as_json: bool) -> None:
    """Say what was written and how it is used."""
    from rstar_math.models.gguf_header import read_header

    what = str(read_header(out).facts["rstar.kind"])
    size = out.stat().st_size
    if as_json:
        told = {"out": str(out), "kind": what, "adapter": adapter, "bytes": size}
        print_json(told if share is None else {**told, "share_of_change": share})
        return
    use = {
        ("policy", False): f"--model {out} --set policy.prompt=trained",
        ("policy", True): f"--set model.adapter={out} --set policy.prompt=trained",
    }.get((what, adapter), f"--set search.scorer=ppm --set search.ppm={out}")
    holds = "" if share is None else f" It holds {share:.1%} of what was learned (squared size)."
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); use it with {use}.{holds}")
