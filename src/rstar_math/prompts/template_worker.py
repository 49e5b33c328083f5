"""Child process that renders a chat template. A template comes with a model and may be hostile.

Arguments: the limit of address space in bytes, and the limit of CPU time in seconds. Reads one JSON
object from standard input: `{"template": str, "cases": [{"messages": [...],
"add_generation_prompt": bool, "variables": {...}}]}`. Writes a list with one `{"text": str}` or
`{"error": str}` per case.
"""

import json
import resource
import sys

MAX_CHARS = 2_000_000
"""Maximum length of a rendering."""


def main() -> None:
    """Render the cases from standard input."""
    memory_bytes, cpu_s = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    request = json.loads(sys.stdin.buffer.read())
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    results = []
    for case in request["cases"]:
        try:
            template = environment.from_string(request["template"])
            parts, size = [], 0
            for part in template.generate(
                messages=case["messages"],
                add_generation_prompt=case["add_generation_prompt"],
                **case["variables"],
            ):
                size += len(part)
                if size > MAX_CHARS:
                    raise ValueError(f"the text is longer than {MAX_CHARS} characters")
                parts.append(part)
            results.append({"text": "".join(parts)})
        except MemoryError:
            results.append({"error": "it takes too much memory"})
        except Exception as error:
            results.append({"error": f"{type(error).__name__}: {error}"[:300]})
    sys.stdout.write(json.dumps(results))


if __name__ == "__main__":
    main()
