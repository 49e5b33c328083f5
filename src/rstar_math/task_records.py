"""Tasks, references and images as JSON-compatible data, for problem files, runs and trees.

A row of a problem file has the keys of `task_entry` and `reference_entry` beside "problem":

    {"kind": "code", "function": "add", "tests": [{"call": "add(1, 2)", "returns": "3"}],
     "hidden_tests": [{"call": "add(0, 0)", "returns": "0"}], "time_s": 2}
    {"kind": "code", "tests": [{"stdin": "1 2\\n", "stdout": "3\\n"}]}
    {"kind": "choice", "options": ["iron", "wood"], "answer": "A"}
    {"kind": "text", "form": "yesno", "answer": "yes"}

A run keeps the two apart: the task with the question, the reference in a column of its own. All
functions raise `ValueError` with a reason for invalid data.
"""

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, get_args

from rstar_math.tasks import (
    MAX_OPTIONS,
    AcceptedTexts,
    CallTest,
    ChoiceTask,
    CodeTask,
    HiddenTests,
    Kind,
    Reference,
    RightOptions,
    StreamTest,
    Task,
    Test,
    TextForm,
    TextTask,
    letters,
)
from rstar_math.types import Image

MAX_TESTS = 10_000
"""Maximum number of tests of one problem."""
MAX_TEST_CHARS = 1 << 20
"""Maximum length of an input or output of a test, in characters."""
MAX_IMAGE_BYTES = 8 << 20
"""Maximum size of an image, in bytes."""
MAX_IMAGES = 16
_CODE_DEFAULTS = {field.name: field.default for field in fields(CodeTask)}


def task_entry(task: Task | None) -> dict[str, Any]:
    """The task as JSON-compatible data; empty for a mathematical problem."""
    match task:
        case CodeTask():
            entry: dict[str, Any] = {
                "kind": "code",
                "tests": [_test_entry(t) for t in task.examples],
            }
            for key in ("function", "setup", "inputs", "time_s", "memory_mb", "tuples_are_lists"):
                if (value := getattr(task, key)) != _CODE_DEFAULTS[key]:
                    entry[key] = list(value) if isinstance(value, tuple) else value
            return entry
        case ChoiceTask():
            several = {"several": True} if task.several else {}
            return {"kind": "choice", "options": list(task.options), **several}
        case TextTask():
            return {"kind": "text", "form": task.form}
    return {}


def parse_task(entry: Mapping[str, Any]) -> Task | None:
    """The task in the keys of a row."""
    kind = entry.get("kind")
    if kind is None:
        kind = "choice" if entry.get("options") else "math"
    match kind:
        case "math":
            return None
        case "code":
            return _code_task(entry)
        case "choice":
            options = tuple(str(option) for option in _list(entry, "options"))
            if not 2 <= len(options) <= MAX_OPTIONS:
                raise ValueError(f'"options" has {len(options)} entries; use 2 to {MAX_OPTIONS}')
            answers = entry.get("answer")
            several = isinstance(answers, list) or "," in str(answers or "")
            return ChoiceTask(options, bool(entry.get("several", several)))
        case "text":
            form = entry.get("form", "words")
            if form not in get_args(TextForm):
                raise ValueError(f'"form" is {form!r}; use {", ".join(get_args(TextForm))}')
            return TextTask(form)
    raise ValueError(f'"kind" is {kind!r}; use {", ".join(Kind)}')


def _code_task(entry: Mapping[str, Any]) -> CodeTask:
    """The task of a code problem."""
    function = entry.get("function")
    if function is not None and not (isinstance(function, str) and function.isidentifier()):
        raise ValueError(f'"function" is {function!r}; write the name of the function')
    time_s, memory_mb = entry.get("time_s", 5.0), entry.get("memory_mb", 512)
    if not _is_number(time_s) or not 0 < time_s <= 600:
        raise ValueError(f'"time_s" is {time_s!r}; use seconds above 0, up to 600')
    if type(memory_mb) is not int or not 16 <= memory_mb <= 65536:
        raise ValueError(f'"memory_mb" is {memory_mb!r}; use a whole number from 16 to 65536')
    inputs = tuple(_text(item, "an input") for item in _list(entry, "inputs"))
    return CodeTask(
        function=function,
        setup=_text(entry.get("setup", ""), '"setup"'),
        examples=_tests(entry, "tests"),
        inputs=inputs,
        time_s=float(time_s),
        memory_mb=memory_mb,
        tuples_are_lists=bool(entry.get("tuples_are_lists", False)),
    )


def _tests(entry: Mapping[str, Any], key: str) -> tuple[Test, ...]:
    """The tests under a key; those without a tolerance get that of the row."""
    tests = _list(entry, key)
    if len(tests) > MAX_TESTS:
        raise ValueError(f'"{key}" has {len(tests)} tests; use at most {MAX_TESTS}')
    calls = entry.get("function") is not None
    return tuple(_parse_test(test, entry.get("tolerance"), calls=calls) for test in tests)


def _parse_test(test: Any, tolerance: Any, *, calls: bool) -> Test:
    """One test. `calls` states whether the tests of the problem call a function."""
    if not isinstance(test, Mapping):
        raise ValueError("a test is not an object; write {call, returns} or {stdin, stdout}")
    tolerance = test.get("tolerance", tolerance)
    if tolerance is not None and (not _is_number(tolerance) or not 0 <= tolerance <= 1):
        raise ValueError(f'"tolerance" is {tolerance!r}; use a number from 0 to 1')
    first, second = ("call", "returns") if calls else ("stdin", "stdout")
    if first not in test or second not in test:
        hint = "" if calls else '; for a function, write its name under "function"'
        raise ValueError(f'a test has no "{first}" or no "{second}"{hint}')
    return (CallTest if calls else StreamTest)(
        _text(test[first], f'"{first}"'), _text(test[second], f'"{second}"'), tolerance
    )


def _test_entry(test: Test) -> dict[str, Any]:
    tolerance = {} if test.tolerance is None else {"tolerance": test.tolerance}
    if isinstance(test, CallTest):
        return {"call": test.call, "returns": test.expected, **tolerance}
    return {"stdin": test.stdin, "stdout": test.stdout, **tolerance}


def reference_entry(reference: Reference | None) -> dict[str, Any]:
    """The reference as JSON-compatible data, for a row of a problem file."""
    match reference:
        case None:
            return {}
        case HiddenTests(tests=tests):
            return {"hidden_tests": [_test_entry(test) for test in tests]}
        case RightOptions(letters=chosen):
            return {"answer": chosen[0] if len(chosen) == 1 else list(chosen)}
        case AcceptedTexts(texts=texts):
            return {"answer": texts[0] if len(texts) == 1 else list(texts)}
    return {"answer": reference}


def parse_reference(entry: Mapping[str, Any], task: Task, answer: Any) -> Reference | None:
    """The reference of a problem with a task. `answer` is the value of the answer's column."""
    match task:
        case CodeTask():
            if "hidden_tests" in entry or task.examples:
                return HiddenTests(_tests(entry, "hidden_tests"))
            return None
        case ChoiceTask():
            return None if answer is None else RightOptions(_letters(answer, task))
        case TextTask():
            texts = answer if isinstance(answer, list) else [] if answer is None else [answer]
            accepted = tuple(text for item in texts if (text := _text(item, "an answer").strip()))
            return AcceptedTexts(accepted) if accepted else None


def _letters(answer: Any, task: ChoiceTask) -> tuple[str, ...]:
    """The letters of the right options: given as letters, or as the text of the options."""
    valid = letters(len(task.options))
    items = answer if isinstance(answer, list) else [answer]
    if isinstance(answer, str) and answer not in task.options and "," in answer:
        items = answer.split(",")
    found = set()
    for item in items:
        text = str(item).strip()
        letter = text.strip("().").upper()
        if letter in valid and len(letter) == 1:
            found.add(letter)
        elif text in task.options:
            found.add(valid[task.options.index(text)])
        else:
            raise ValueError(f'"answer" is {item!r}; use letters from A to {valid[-1]}')
    if not found:
        raise ValueError('"answer" is empty; name at least one option')
    if len(found) > 1 and not task.several:
        raise ValueError(f'"answer" has {len(found)} options; write "several": true')
    return tuple(sorted(found))


def dump_reference(reference: Reference | None) -> str | None:
    """The reference as text for a run; that of a mathematical problem is unchanged."""
    if reference is None or isinstance(reference, str):
        return reference
    return json.dumps(reference_entry(reference), ensure_ascii=False)


def load_reference(text: str | None, task: Task | None) -> Reference | None:
    """The inverse of `dump_reference`."""
    if text is None or task is None:
        return text
    entry = json.loads(text)
    if not isinstance(entry, Mapping):
        raise ValueError("a reference is not an object")
    calls = {"function": task.function} if isinstance(task, CodeTask) else {}
    return parse_reference({**calls, **entry}, task, entry.get("answer"))


def parse_image(text: str) -> Image:
    """The image of a data URI such as "data:image/png;base64,..."."""
    head, comma, body = text.partition(",")
    media_type, _, encoding = head.removeprefix("data:").partition(";")
    if not comma or encoding != "base64" or not media_type.startswith("image/"):
        raise ValueError("an image is not a data URI of the form data:image/png;base64,...")
    try:
        data = base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the data of an image are not base64 ({error})") from None
    return make_image(data)


_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
"""First bytes of the formats that servers of multimodal models accept."""


def make_image(data: bytes) -> Image:
    """The image with this content. Its first bytes decide the media type."""
    if len(data) > MAX_IMAGE_BYTES:
        raise ValueError(f"an image has {len(data)} bytes; use at most {MAX_IMAGE_BYTES}")
    for signature, media_type in _SIGNATURES.items():
        if data.startswith(signature) and (media_type != "image/webp" or data[8:12] == b"WEBP"):
            return Image(media_type, data)
    raise ValueError("an image is not PNG, JPEG, GIF or WebP; convert it to PNG")


def image_uri(image: Image) -> str:
    """The image as a data URI."""
    return f"data:{image.media_type};base64,{base64.b64encode(image.data).decode('ascii')}"


def _list(entry: Mapping[str, Any], key: str) -> Sequence[Any]:
    value = entry.get(key, [])
    if not isinstance(value, list | tuple):
        raise ValueError(f'"{key}" is {type(value).__name__}; write a list')
    return value


def _text(value: Any, name: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{name} is {type(value).__name__}; write text")
    text = str(value)
    if len(text) > MAX_TEST_CHARS:
        raise ValueError(f"{name} has {len(text)} characters; use at most {MAX_TEST_CHARS}")
    if "\x00" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"{name} has a null character or an unpaired surrogate; remove it")
    return text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
