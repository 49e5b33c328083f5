"""`rstar deploy`: a trained model as a file or folder that llama.cpp or vLLM serves."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from rstar_math.cli.options import AsJson, print_json

Base = Annotated[
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
    base: Base = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of that adapter.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Write a trained policy or preference model for llama.cpp, or a policy's adapter for vLLM.

    A policy's .gguf file is a --model; a preference model's goes to --set search.ppm=FILE, a
    policy's adapter to --set model.adapter=FILE. vLLM serves checkpoint folders as they are.
    """
    from rstar_math.errors import ConfigError

    if form == "peft":
        if not adapter:
            raise ConfigError(
                "--format peft is for adapters; add --adapter, or serve the checkpoint folder "
                f"itself: vllm serve {checkpoint}."
            )
        if kind is not None or base is not None:
            raise ConfigError("--kind and --base are for .gguf files; leave them out.")
        return _deploy_peft(checkpoint, out, as_json)
    if form == "int8":
        if adapter or kind is not None or base is not None:
            raise ConfigError("--adapter, --kind and --base do not go with --format int8.")
        return _deploy_int8(checkpoint, out, as_json)
    if out.suffix != ".gguf":
        raise ConfigError(f"--out {out} does not end in .gguf; rename it.")
    if base is not None and not adapter:
        raise ConfigError("--base is for adapters; give --adapter too, or leave it out.")
    share = _write(checkpoint, out, kind, adapter, (base, rank))
    return _tell(out, adapter, share, as_json)


def _write(
    checkpoint: Path,
    out: Path,
    kind: Literal["f32", "f16", "q8_0"] | None,
    adapter: bool,
    relative: tuple[str | None, int],
) -> float | None:
    """Write the .gguf file; of an adapter `relative` to a base and of a rank, the share of the
    change that it holds."""
    from rstar_math.models.gguf_adapters import write_adapter
    from rstar_math.models.gguf_differences import write_difference
    from rstar_math.models.gguf_files import write_gguf

    base, rank = relative
    if base is not None:
        file = _file_of(base)
        return write_difference(checkpoint, out, base=file, rank=rank, kind=kind or "f16")
    if adapter:
        write_adapter(checkpoint, out, kind=kind or "f16")
    else:
        write_gguf(checkpoint, out, kind=kind or "q8_0")
    return None


def _deploy_int8(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write a checkpoint with 8-bit weights, and say how it is served."""
    from rstar_math.models.int8_checkpoints import write_int8

    write_int8(checkpoint, out)
    size = sum(file.stat().st_size for file in out.iterdir())
    if as_json:
        print_json({"out": str(out), "kind": "policy", "format": "int8", "bytes": size})
        return
    typer.echo(f"Written to {out} ({size / 1e6:.1f} MB); serve it with vllm serve {out}.")


def _deploy_peft(checkpoint: Path, out: Path, as_json: bool) -> None:
    """Write an adapter folder for vLLM, and say how it is served."""
    from rstar_math.errors import ConfigError
    from rstar_math.models.peft_adapters import write_peft_adapter

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
    from rstar_math.models.gguf_header import read_header

    facts = read_header(out).facts
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
