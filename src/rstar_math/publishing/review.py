"""What forbids to publish: keys in the files, and licences that are not known."""

import json
from collections.abc import Iterator
from pathlib import Path

from rstar_math.errors import InputError
from rstar_math.models.names import catalogue
from rstar_math.models.uploads import licence_on_hub
from rstar_math.problems.benchmarks import all_benchmarks
from rstar_math.publishing.contents import SMOLLM2, Contents
from rstar_math.redaction import find_secrets, secret_variables
from rstar_math.runs.export import require_parquet

UNKNOWN = "unknown"
_TEXTS = (".json", ".jsonl", ".md", ".txt", ".toml", ".jinja", ".yaml", ".yml")
_GENERATORS = {"toy": "mit", "stories": "mit", "gym": "apache-2.0"}
"""Licences of generated problems: this package's generators, and reasoning-gym."""
_CHUNK_BYTES = 1 << 20
_OVERLAP_BYTES = 1 << 10


def find_secrets_in(contents: Contents) -> dict[str, list[str]]:
    """The kinds of secrets in each file that seems to have any, by its path in the repository.

    Texts and Parquet files are searched for keys, all files for the values of this machine's secret
    variables.
    """
    known = secret_variables()
    found: dict[str, list[str]] = {}
    for name, content in contents.files.items():
        kinds: set[str] = set()
        is_text = name.endswith((*_TEXTS, ".parquet"))
        for text in _pieces(name, content):
            if is_text:
                kinds.update(find_secrets(text, known))
            else:  # random bytes may look like a key
                kinds.update(about for value, about in known.items() if value in text)
        if kinds:
            found[name] = sorted(kinds)
    return found


def require_no_secrets(contents: Contents) -> None:
    """Raise `InputError` if a file seems to contain a key."""
    for name, kinds in find_secrets_in(contents).items():
        raise InputError(
            f"{name} seems to contain {kinds[0]}; remove it, or pass --allow-secrets if it is no "
            "secret."
        )


def _pieces(name: str, content: Path | bytes) -> Iterator[str]:
    """The text of a file in pieces that overlap. Binary files are read as Latin-1."""
    if name.endswith(".parquet") and isinstance(content, Path):
        arrow = require_parquet()
        with arrow.parquet.ParquetFile(content) as file:
            for batch in file.iter_batches(batch_size=1000):
                yield json.dumps(batch.to_pylist(), ensure_ascii=False, default=str)
        return
    encoding = "utf-8" if name.endswith(_TEXTS) else "latin-1"
    if isinstance(content, bytes):
        yield content.decode(encoding, "replace")
        return
    rest = b""
    with content.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            yield (rest + chunk).decode(encoding, "replace")
            rest = chunk[-_OVERLAP_BYTES:]


def licence_of(contents: Contents) -> str:
    """The licence of a model's base, or of all sources of a data set, in the hub's spelling.

    It is `UNKNOWN` if it cannot be told, and if a data set's sources have several.
    """
    if not contents.is_data:
        return _base_licence(contents.base)
    licences = {_source_licence(source) for source in contents.sources} or {UNKNOWN}
    return licences.pop() if len(licences) == 1 else UNKNOWN


def require_licence(contents: Contents, given: str | None) -> str:
    """The licence to publish under. Raises `InputError` if none is given and none is known."""
    licence = given or licence_of(contents)
    if licence == UNKNOWN and given is None:
        origin = f"its sources ({', '.join(contents.sources) or 'not recorded'})"
        if not contents.is_data:
            origin = f"its base model ({contents.base or 'not recorded'})"
        raise InputError(
            f"The licence of {contents.name} is not known from {origin}; pass --licence NAME, for "
            "example apache-2.0, or --licence unknown to publish it all the same."
        )
    return licence


def _base_licence(base: str | None) -> str:
    if base is None:
        return UNKNOWN
    if base == SMOLLM2:
        return "apache-2.0"
    for model in catalogue().values():
        if base in (model.checkpoint, model.repo):
            return spdx(model.licence)
    return (licence_on_hub(base) if "/" in base else None) or UNKNOWN


def _source_licence(source: str) -> str:
    """The licence of a problem source: a benchmark or a generator.

    The source of a file or of a hub data set is a name that somebody chose, so it proves nothing.
    """
    generator = _GENERATORS.get(source.partition("/")[0])
    if generator is not None:
        return generator
    licences = (each.licence for each in all_benchmarks() if each.name == source)
    return spdx(next(licences, ""))


def spdx(licence: str) -> str:
    """A licence in the hub's spelling, such as "apache-2.0"; `UNKNOWN` if none is stated."""
    name = licence.partition("(")[0].partition(":")[0].strip().lower().replace(" ", "-")
    return UNKNOWN if not name or name.startswith(("none", "by-")) else name
