"""Cards of models and data sets in the hub's format: YAML with metadata, then Markdown."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from rstar_math import __version__
from rstar_math.models.uploads import UploadTarget
from rstar_math.progress import megabytes
from rstar_math.publishing.contents import Contents, Kind, sha256_of, size_of
from rstar_math.publishing.review import UNKNOWN
from rstar_math.redaction import redact
from rstar_math.training.dataset import data_table, escape

_TITLES: dict[Kind, str] = {
    "policy": "a policy that reasons in steps of run code",
    "ppm": "a process preference model",
    "adapter": "a LoRA adapter of a policy",
    "gguf": "a model for llama.cpp",
    "data": "data from search trees",
}
_LICENCES = {"apache-2.0", "mit", "openrail", "gpl-3.0", "lgpl-3.0", "afl-3.0", "bsd-3-clause"}
_LICENCES |= {"cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "odc-by"}
_LICENCES |= {"llama2", "llama3", "llama3.1", "llama3.2", "llama3.3", "gemma", "other", UNKNOWN}
"""Identifiers that the hub knows and that are used often; any other one is written as "other"."""
_TAGS = ["rstar-math", "reasoning", "mathematics"]


def card(contents: Contents, target: UploadTarget, licence: str) -> str:
    """The card (README.md) of a model or a data set."""
    metadata = _data_metadata if contents.is_data else _model_metadata
    lines = ["---", metadata(contents, licence).to_yaml().strip(), "---", ""]
    lines += [f"# {target.repo.partition('/')[2]}", ""]
    lines += [f"This is {_TITLES[contents.kind]}, made by rstar-math {__version__}.", ""]
    for section in (_usage, _origin, _figures, _files):
        lines += [*section(contents, target), ""]
    lines += [*_licence_note(contents, licence), ""]
    return "\n".join(lines)


def _licence_fields(licence: str) -> dict[str, str]:
    known = licence if licence in _LICENCES else "other"
    return {"license": known} | ({"license_name": licence} if known != licence else {})


def _model_metadata(contents: Contents, licence: str) -> Any:
    from huggingface_hub import ModelCardData

    is_scorer = contents.kind == "ppm"
    libraries: dict[Kind, str] = {"adapter": "peft", "gguf": "llama.cpp"}
    return ModelCardData(
        **_licence_fields(licence),
        base_model=contents.base,
        library_name=libraries.get(contents.kind, "transformers"),
        pipeline_tag="text-classification" if is_scorer else "text-generation",
        metrics=["accuracy"] if contents.facts.get("report", {}).get("held_out") else None,
        tags=[*_TAGS, *(["reward-model"] if is_scorer else [])],
        language="en",
    )


def _data_metadata(contents: Contents, licence: str) -> Any:
    from huggingface_hub import DatasetCardData

    configs = [
        {"config_name": entry["data"], "data_files": name}
        for name, entry in contents.facts.get("files", {}).items()
    ]
    rows = [name for name in contents.files if name.endswith((".jsonl", ".parquet"))]
    configs = configs or [{"config_name": "default", "data_files": name} for name in rows]
    return DatasetCardData(
        **_licence_fields(licence),
        task_categories=["text-generation"],
        language="en",
        tags=_TAGS,
        configs=configs,
    )


def _usage(contents: Contents, target: UploadTarget) -> Iterator[str]:
    repo = target.repo
    file = next(iter(contents.files))
    kinds = (
        [entry["data"] for entry in contents.facts.get("files", {}).values()]
        if (contents.is_data)
        else []
    )
    code: dict[Kind, str] = {
        "policy": f'    rstar solve "What is 6 times 7?" --model hf:{repo}',
        "ppm": f"    hf download {repo} --local-dir ppm\n"
        "    rstar solve QUESTION --set search.scorer=ppm --set search.ppm=ppm",
        "adapter": f"    hf download {repo} --local-dir adapter\n"
        f"    rstar solve QUESTION --model vllm:{contents.base} "
        "--set servers.adapters.own=adapter --set model.name=own",
        "gguf": f'    rstar solve "What is 6 times 7?" --model hf:{repo}:{file}',
        "data": "    from datasets import load_dataset\n\n"
        f'    load_dataset("{repo}"{f", {json.dumps(kinds[0])}" if kinds else ""})',
    }
    yield from ("## Use", "", code[contents.kind])
    if contents.kind in ("policy", "gguf"):
        yield from ("", "The model writes Python code. Run it only in a sandbox, as `rstar` does.")


def _origin(contents: Contents, target: UploadTarget) -> Iterator[str]:
    """How it was trained, or which run the data comes from."""
    facts = contents.facts
    yield from ("## How it was made", "")
    if contents.is_data:
        origin = facts.get("origin", {})
        yield f"- Run: {escape(str(origin.get('run', 'not recorded')))}"
        model = origin.get("conditions", {}).get("model.name")
        yield f"- Policy that wrote the solutions: {escape(str(model or 'not recorded'))}"
        yield f"- Problem sources: {', '.join(map(escape, contents.sources)) or 'not recorded'}"
        if "files" in facts:
            yield from ("", *data_table(facts))
        return
    yield f"- Base model: {escape(contents.base or 'not recorded')}"
    if "rows" in facts:
        yield f"- Rows of training data: {facts['rows']} (hash `{facts.get('data')}`)"
    for name, version in sorted(facts.get("versions", {}).items()):
        yield f"- {name} {version}"
    if "settings" in facts:
        settings = json.dumps(redact(facts["settings"]), indent=2, ensure_ascii=False)
        yield from ("", "Settings of the training:", "", "```json", settings, "```")


def _figures(contents: Contents, target: UploadTarget) -> Iterator[str]:
    """The figures that the training measured."""
    figures = dict(_numbers(contents.facts.get("report", {}))) if not contents.is_data else {}
    yield from ("## Measured", "")
    if not figures:
        yield "Nothing was recorded with these files."
        return
    yield from ("| figure | value |", "|---|---|")
    for name, value in figures.items():
        yield f"| {escape(name)} | {value:.6g} |"


def _numbers(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in report.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{label}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield label, value


def _files(contents: Contents, target: UploadTarget) -> Iterator[str]:
    yield from ("## Files", "", "| file | size | SHA-256 |", "|---|---|---|")
    for name, content in contents.files.items():
        yield f"| {escape(name)} | {megabytes(size_of(content))} | `{sha256_of(content)}` |"


def _licence_note(contents: Contents, licence: str) -> Iterator[str]:
    yield from ("## Licence", "")
    if licence == UNKNOWN:
        yield "The licence is not known."
    elif contents.is_data:
        yield (
            f"{licence}. Questions and references belong to their sources, and a model wrote the "
            "solutions. The terms of both apply; some model licences restrict training on output."
        )
    else:
        yield f"{licence}. The terms of the base model apply to its weights in these files."
