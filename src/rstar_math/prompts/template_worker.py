"""The child process that renders a chat template. A template comes with a model file and may be
hostile.

Arguments: the most bytes of address space and the most seconds of processor time.
Reads one JSON object from standard input, `{"template": str, "cases": [{"messages": [...],
"add_generation_prompt": bool, "variables": {...}}]}`, and writes a list of `{"text": str}` or
`{"error": str}`, one for each case.
"""

import json
import resource
import sys

MAX_CHARS = 2_000_000
"""Longest rendering."""


def main() -> None:
    """Render the cases of standard input."""
    memory, seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: object, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=False, indent=indent)

    request = json.loads(sys.stdin.buffer.read())
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    answers = []
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
                    raise ValueError(f"it grows beyond {MAX_CHARS} characters")
                parts.append(part)
            answers.append({"text": "".join(parts)})
        except MemoryError:
            answers.append({"error": "it takes too much memory"})
        except Exception as error:
            answers.append({"error": f"{type(error).__name__}: {error}"[:300]})
    sys.stdout.write(json.dumps(answers))


if __name__ == "__main__":
    main()
