"""Finds the final answer in a model's text, in linear time.

- `extract_answer` reads whole outputs, which must contain an answer: chains of thought
  (`policies.completions.ChainPolicy`) and the check of a bare model (`evaluation.sanity`).
- `extract_stated_answer` reads parts of solutions, which may have no answer yet: the steps of a
  search (`prompts.grammar`, `prompts.action_parsing`) and the discriminator's completions.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_BOX = re.compile(r"\\f?boxed\b|\\fbox\b")
_NESTED_BOX = re.compile(r"\s{0,20}\\(?:f?boxed|fbox)\b")
_SPACE = re.compile(r"\s{0,20}")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_UNBRACED_CONTENT = re.compile(r"\s{0,20}(\\[A-Za-z]{1,40}\{[^{}\n]{0,200}\}|[^\s{}$\\,;]+)")
_BETWEEN_BOXES = re.compile(
    r"(?:[\s$*,;，；、&]|\\[()\[\],;!]|\\q?quad\b|\b(?:and|or)\b|和|或"
    r"|\\text\s*\{\s*(?:and|or)\s*\}|[A-Za-z](?:_\{?\w{1,4}\}?)?\s{0,3}=)*"
)
_BOX_SEPARATOR = re.compile(r"[,;，；、&和或]|and|or")
_MAX_BETWEEN_BOXES = 40
"""Maximum number of characters between two boxes that form one answer."""

_ANSWER_PHRASE = re.compile(
    r"(?:\b(?:final\s+)?(?:answer|result|solution)s?(?:\s+(?:to|for|of)\b[^.:\n]{0,80}?)?"
    r"[\s*]*(?:(?:is|are|was|be|equals?)\b|[:=：])|####|答案(?:是|为|：|:))"
    r"[\s:]*",
    re.IGNORECASE,
)
_PHRASE_AFTER_VALUE = re.compile(
    r"\s(?:is|are)\s+(?:\w+\s+)?(?:the|our|my)\s+(?:\w+\s+)?(?:answer|solution)s?\b", re.IGNORECASE
)
_CONCLUSION = re.compile(
    r"(?:\b(?:therefore|thus|hence|so|finally|in conclusion)\b|∴)"
    r"[^\n]{0,200}?\b(?:is|are|equals?|=)\s+",
    re.IGNORECASE,
)
_REVISION = re.compile(
    r"\b(?:wait|actually|correct(?:ion|ed|ing)|oops|sorry|mistake|re-?check(?:ed|ing)?|no,|"
    r"on second thought|let me re)",
    re.IGNORECASE,
)
_CONNECTIVE = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|finally|and|that means)\b|∴)[\s,:]*", re.IGNORECASE
)
_CHOSEN_OPTION = re.compile(
    r"\b(?:choice|option|choose|select|pick)\s+(?:is\s+)?(?:\\text\s*\{\s*)?\(?([A-J])\)?(?![A-Za-z0-9])"
)
_SUBORDINATE_CLAUSE = re.compile(
    r",?\s{1,20}(?:because|since|which|so that|where|as required|as desired)\b"
    r"|,\s{1,20}(?:so|as|but|not)\b"
)
_REMARK_AFTER_VALUE = re.compile(
    r"([-+]?[$€£¥]?\s?[-+]?\d(?:[\d.,/:]{0,30}\d)?\s?%?(?:\s+[A-Za-z/°²³]{1,20}){0,3}),\s+([a-z]{2,})\b(.?)"
)
_NUMBER_WORDS = frozenset(
    re.findall(
        r"\w+",
        "and or to by zero one two three four five six seven eight nine ten eleven twelve thirteen "
        "fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty "
        "seventy eighty ninety hundred thousand million dozen half quarter third no none undefined",
    )
)
"""Words that belong to a value or to a list of values, and not to a remark."""
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_WRAPPED = re.compile(
    r"(?:\*\*(.+?)\*\*|__(.+?)__|`(.+?)`|\"([^\"]+)\"|“([^”]+)”|'([^']+)'|「([^」]+)」)", re.DOTALL
)
_VALUE_START = re.compile(
    r"(?:(?:about|approximately)\s{1,20})?[-+$€£¥(\[{\\√π∞]{0,20}\s?(?:\d|\\|[√π∞∅])"
)
_VERB = re.compile(
    r"(?:\b(?:is|are|was|were|be|been|equals?|has|have|had|gets?|got|costs?|makes?|made|earns?|"
    r"earned|needs?|takes?|took|can|will|spends?|spent|pays?|paid|comes|totals?|gives?)\b|=)",
    re.IGNORECASE,
)
_EQUATION = re.compile(
    r"(?:\b(?:is|are|was|were|equals?|be)\b|=)\s*(?=[-+$€£¥(]{0,3}\s?\d)", re.IGNORECASE
)
_NUMBER = re.compile(
    r"[-+]?[$€£¥]?\s?(?<![\w.])[-+]?\d(?:[\d,]{0,40}\d)?(?:\.\d{1,40})?"
    r"(?:\s?/\s?\d{1,20})?\s?\\?%?"
)
_CIRCUMSTANCE = re.compile(
    r"\b(?:out of|of the|after|within|over|during|every|per|in|for)(?:\s+the\s+\w+)?\s*$",
    re.IGNORECASE,
)
"""Words before a number that is not the result of a sentence, such as "in 12 days"."""
_SENTENCE_END = re.compile(r"(?<=[^\s.])[.!?。！？](?=\s|\*|\"|$)|\n")
_MAX_MATCHES = 50
"""Number of boxes or answer phrases that are tried, from the last one backwards."""
_CONCLUSION_CHARS = 20_000
"""Length of the end of a text in which conclusions ("therefore x is ...") are searched."""
_SENTENCE_CHARS = 2000
"""Maximum length of an answer's sentence."""
_DELIMITERS = (("$$", "$$"), ("\\[", "\\]"), ("\\(", "\\)"), ("$", "$"))
"""Opening and closing delimiters of TeX formulas."""
_BARE_ANSWER = re.compile(
    r"\(?[A-J][).]?|(?:yes|no|true|false)\b[.!]?|[-+]?[$€£]?\s?\d[\d,._]*(?:/\d+)?\s*%?\.?",
    re.IGNORECASE,
)
_SPECIAL_TOKEN = re.compile(
    r"<[|｜][^<>\n|｜]{1,40}[|｜]>|</?s>|<(?:eos|bos|pad|unk|EOD|end_of_turn|start_of_turn|"
    r"end_of_utterance)>|\[/?INST\]"
)
_ROLE = re.compile(r"\s*(?:assistant|user|system|model)?\s*", re.IGNORECASE)
_FINAL_CHANNEL = "<|channel|>final<|message|>"
_END_OF_THINKING = "</think>"


def extract_answer(text: str) -> str | None:
    """Return the final answer of a text without its wrapping, or None if the text states none.

    The first of these that the text contains is the answer:

    - the last balanced `\\boxed{...}` or `\\fbox{...}` that is not empty (also `\\boxed 5`), with
      the boxes that a comma or "and" joins to it;
    - "the final answer is ...", else "the answer is ...", else "the solution is ...", else
      "therefore ... is ..."; of equal phrases the last one that has a value;
    - the last chosen option, such as "option B";
    - a number, choice letter, yes/no or formula that fills the last line;
    - the whole text, if it is one line of mathematics without prose (a program's output);
    - the value of the last sentence with a number.

    Text before `</think>` and after an end-of-text token is not searched. Only the last
    `MAX_PROSE_CHARS` characters are searched.
    """
    text = _visible(text[-MAX_PROSE_CHARS:])
    answer = _stated_answer(text)
    return _last_sentence_value(text) if answer is None and not _BOX.search(text) else answer


def extract_stated_answer(text: str) -> str | None:
    """Return the result of `extract_answer`, but None for a text that only contains numbers.

    It suits a part of a solution, which may have no answer yet.
    """
    return _stated_answer(_visible(text[-MAX_PROSE_CHARS:]))


def _stated_answer(text: str) -> str | None:
    for find in (boxed, stated, _chosen_option, _last_line, _math_line):
        answer = find(text)
        if answer is not None:
            return answer
    return None


def _visible(text: str) -> str:
    """Return the part of an output that a user sees: no reasoning and no special tokens."""
    text = text.rpartition(_END_OF_THINKING)[2]
    if "<" not in text and "[" not in text:
        return text
    text = text.rpartition(_FINAL_CHANNEL)[2]
    text = text.replace("<|begin_of_box|>", "\\boxed{").replace("<|end_of_box|>", "}")
    for part in _SPECIAL_TOKEN.split(text):
        if not _ROLE.fullmatch(part):
            return part
    return ""


def boxed(text: str) -> str | None:
    """Return the content of the last balanced box that is not empty, or None.

    Boxes that are separated only by commas, "and" or "or" form one answer: "2, 4, 9".
    """
    matches = _last_matches(_BOX, text)
    if not matches:
        return None
    closing = _closing_braces(text, matches[0].end())
    contents: list[str] = []
    next_start = 0
    for match in reversed(matches):
        content, end = _box_content(text, match.end(), closing)
        if content is None:
            continue  # unbalanced, or contains only a box that was already found empty
        if contents and not _are_joined(text[end : min(next_start, end + _MAX_BETWEEN_BOXES + 1)]):
            break
        contents.append(content)
        next_start = match.start()
        if len(contents) > _MAX_MATCHES:
            break
    return ", ".join(dict.fromkeys(reversed(contents))) or None


def _box_content(text: str, start: int, closing: dict[int, int]) -> tuple[str | None, int]:
    """Return the content of the box whose command ends at `start`, and where the box ends."""
    opening = _SPACE.match(text, start).end()  # type: ignore[union-attr]
    if text[opening : opening + 1] == "{":
        end = closing.get(opening)
        if end is None or _NESTED_BOX.match(text, opening + 1):
            return None, start
        return text[opening + 1 : end].strip() or None, end + 1
    match = _UNBRACED_CONTENT.match(text, start)
    content = match.group(1).rstrip(".:!?") if match else ""
    return content or None, match.end() if match else start


def _are_joined(between: str) -> bool:
    """Return whether the text between two boxes makes them one answer."""
    return (
        len(between) <= _MAX_BETWEEN_BOXES
        and _BETWEEN_BOXES.fullmatch(between) is not None
        and _BOX_SEPARATOR.search(between) is not None
    )


def _closing_braces(text: str, start: int) -> dict[int, int]:
    """Map the position of each opening brace from `start` on to its closing brace."""
    closing: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text, start):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            closing[open_braces.pop()] = match.start()
    return closing


class _Statement(NamedTuple):
    """A phrase that states an answer."""

    has_value: bool
    """Whether the answer contains a value, and not only words ("the answer is correct")."""
    rank: int
    """3: final answer; 2: answer; 1: solution or result; 0: conclusion."""
    is_bare: bool
    """Whether the answer starts with its value, or has no prose."""
    position: int
    answer: str


def stated(text: str) -> str | None:
    """Return the answer of the strongest phrase such as "the final answer is ...", or None.

    Of equally strong phrases the last one counts. After a revision ("wait", "corrected"), only
    the phrases that follow it count.
    """
    statements = list(_statements(text))
    if not statements:
        return None
    first = min(statement.position for statement in statements)
    for revision in reversed(list(_REVISION.finditer(text, first))[-_MAX_MATCHES:]):
        later = [s for s in statements if s.position > revision.start() and s.has_value]
        if later:
            return max(later).answer
    return max(statements).answer


def _statements(text: str) -> Iterator[_Statement]:
    """Yield the last statements of each kind."""
    for match in _last_matches(_ANSWER_PHRASE, text):
        phrase = match.group().lower()
        is_final = phrase.startswith(("final", "####"))
        rank = 3 if is_final else 2 if "answer" in phrase or "答案" in phrase else 1
        yield from _statement(
            _first_clause(text[match.end() :][:_SENTENCE_CHARS]), rank, match.end()
        )
    for match in _last_matches(_PHRASE_AFTER_VALUE, text):
        before = text[max(0, match.start() - 200) : match.start()]
        clause = _CONNECTIVE.sub("", _SENTENCE_END.split(before)[-1].strip(), count=1)
        for statement in _statement(_first_clause(clause), 2, match.end()):
            if statement.has_value:
                yield statement
    offset = max(0, len(text) - _CONCLUSION_CHARS)
    for match in list(_CONCLUSION.finditer(text, offset))[-_MAX_MATCHES:]:
        yield from _statement(_first_clause(text[match.end() :][:_SENTENCE_CHARS]), 0, match.end())


def _last_matches(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """Return the last matches at the end of a text; in the whole text if there are none."""
    matches = list(pattern.finditer(text, max(0, len(text) - _CONCLUSION_CHARS)))
    return (matches or list(pattern.finditer(text)))[-_MAX_MATCHES:]


def _statement(answer: str, rank: int, position: int) -> Iterator[_Statement]:
    if not answer or re.match(r"(?:not|never)\b", answer):
        return
    is_bare = bool(_VALUE_START.match(answer)) or not _prose_words(answer)
    has_value = is_bare or bool(re.search(r"\d|\\[A-Za-z]", answer))
    if not is_bare and has_value and _VERB.search(answer):
        answer = _sentence_value(answer) or answer
    elif (number := _NUMBER.match(answer)) and _is_remark(answer[number.end() :]):
        answer = number.group().strip()
    yield _Statement(has_value, rank, is_bare, position, answer)


def _prose_words(text: str) -> list[str]:
    """Return the words of a text that are not part of its mathematics."""
    if _BARE_ANSWER.fullmatch(text):
        return []
    words = _WORD.findall(text)
    return [w for w in words if w not in FUNCTIONS and w not in CALLS and w not in CONSTANTS]


def _first_clause(text: str) -> str:
    """Return the first clause of a text; it ends with its formula, its sentence or its line."""
    text = text.strip()
    line = text.split("\n", 1)[0].strip() or text
    for opening, end in _DELIMITERS:
        if text.startswith(opening):
            inner, found, after = text[len(opening) :].partition(end)
            if found and not re.match(r"\s*[A-Za-z0-9$\\+*/=-]", after.split("\n", 1)[0]):
                return inner.strip()
    sentence = _SENTENCE_END.split(line, maxsplit=1)[0]
    clause = _SUBORDINATE_CLAUSE.split(sentence, maxsplit=1)[0].strip()
    remark = _REMARK_AFTER_VALUE.match(clause)
    if remark and remark[3] != "(" and not _continues_list(remark[2]):
        clause = remark[1]
    return _unwrap(clause)


def _is_remark(text: str) -> bool:
    """Return whether the text after a number is more than its unit: "of them in the box"."""
    words: list[str] = re.findall(r"[A-Za-z]+", text)
    return (
        re.fullmatch(r"[A-Za-z\s'-]*", text) is not None
        and (len(words) > 3 or words[:1] == ["of"])
        and not any(_continues_list(word) for word in words)
    )


def _continues_list(word: str) -> bool:
    """Return whether a word after a comma is another value, and not a remark."""
    return word in _NUMBER_WORDS or word in FUNCTIONS or word in CONSTANTS


def _unwrap(text: str) -> str:
    """Strip Markdown emphasis, quotes and final punctuation."""
    text = text.strip().rstrip(".").strip()
    match = _WRAPPED.fullmatch(text)
    if match:
        text = next(group for group in match.groups() if group is not None).strip()
    text = text.removesuffix("**").removeprefix("**").strip()
    return text.rstrip(",;:.").strip()


def _chosen_option(text: str) -> str | None:
    letters: list[str] = _CHOSEN_OPTION.findall(text)
    return letters[-1] if letters else None


def _math_line(text: str) -> str | None:
    """Return a one-line text that contains no word of prose, such as a program's output."""
    line = text.strip()
    if (
        len(line) > 300
        or "\n" in line
        or "box" in line
        or not re.search(r"\d|\\[A-Za-z{]|[∞∅π√]", line)
        or _prose_words(line)
    ):
        return None
    return _first_clause(line) or None


def _last_line(text: str) -> str | None:
    """Return the last line if it is a bare answer or one formula, without delimiters; else None."""
    last = next((line for line in reversed(text[-4000:].splitlines()) if line.strip()), "").strip()
    line = _unwrap(last) or last
    content = line
    for opening, end in _DELIMITERS:
        if line.startswith(opening) and line.endswith(end) and len(line) > len(opening + end):
            content = line[len(opening) : -len(end)].strip()
            if opening not in content:
                return content or None
    return content.rstrip(".!") if _BARE_ANSWER.fullmatch(content) else None


def _last_sentence_value(text: str) -> str | None:
    """Return the value of the last sentence with a number, or None."""
    sentences = _SENTENCE_END.split(text[-_CONCLUSION_CHARS:].rstrip(" .!\n"))
    for sentence in reversed(sentences):
        value = _sentence_value(_SUBORDINATE_CLAUSE.split(sentence, maxsplit=1)[0])
        if value is None:
            value = _sentence_value(sentence)
        if value is not None:
            return value
    return None


def _sentence_value(sentence: str) -> str | None:
    """Return the number or formula that a sentence states, or None if it has none."""
    sentence = sentence[-_SENTENCE_CHARS:]
    emphasized = [_unwrap(m[1]) for m in re.finditer(r"\*\*([^*\n]{1,100})\*\*", sentence)]
    if len(emphasized) == 1 and _VALUE_START.match(emphasized[0]):
        return emphasized[0]
    equations = list(_EQUATION.finditer(sentence))
    if equations:
        number = _NUMBER.search(sentence, equations[-1].end())
        if number:
            return number.group().strip()
    formulas = re.findall(r"(?<!\\)\$([^$\n]{1,200})\$(?!\d)", sentence)
    if formulas and re.search(r"\d|\\", formulas[-1]):
        return str(formulas[-1]).strip()
    numbers = list(_NUMBER.finditer(sentence))
    results = [
        n for n in numbers if not _CIRCUMSTANCE.search(sentence[max(0, n.start() - 40) : n.start()])
    ]
    chosen = results or numbers
    return chosen[-1].group().strip() if chosen else None


MAX_PROSE_CHARS = 200_000
"""Maximum number of characters that `extract_answer` reads, counted from the end of the text."""
CALLS = frozenset(
    [
        "binomial",
        "comb",
        "Rational",
        "Fraction",
        "Integer",
        "Float",
        "Decimal",
        "Matrix",
        "ImmutableMatrix",
        "ImmutableDenseMatrix",
        "MutableDenseMatrix",
        "array",
        "Interval",
        "Intervalopen",
        "IntervalLopen",
        "IntervalRopen",
        "Union",
        "Intersection",
        "FiniteSet",
        "Eq",
        "Ne",
        "Lt",
        "Le",
        "Gt",
        "Ge",
        "Or",
        "And",
        "Point",
        "Point2D",
        "Point3D",
        "Tuple",
        "tuple",
        "list",
        "set",
        "pow",
        "root",
        "Pow",
        "Mul",
        "Add",
        "StrictLessThan",
        "LessThan",
        "StrictGreaterThan",
        "GreaterThan",
        "Complement",
        "complex",
        "frozenset",
    ]
)
"""Names of Python and sympy calls that may appear in printed answers."""
CONSTANTS = {
    "pi": "pi", "Pi": "pi", "PI": "pi", "oo": "inf", "inf": "inf", "infty": "inf",
    "infinity": "inf", "Infinity": "inf",
}  # fmt: skip
"""Canonical names of constants, by spelling."""
FUNCTIONS = {
    "sin": "sin", "cos": "cos", "tan": "tan", "cot": "cot", "sec": "sec", "csc": "csc",
    "cosec": "csc", "tg": "tan", "ctg": "cot", "arcsin": "asin", "arccos": "acos",
    "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan", "arccot": "acot",
    "acot": "acot", "arcsec": "asec", "asec": "asec", "arccsc": "acsc", "acsc": "acsc",
    "arctg": "atan", "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "coth": "coth",
    "sech": "sech", "csch": "csch", "asinh": "asinh", "acosh": "acosh", "atanh": "atanh",
    "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh", "arsinh": "asinh",
    "arcosh": "acosh", "artanh": "atanh", "ln": "ln", "log": "log", "lg": "lg", "exp": "exp",
    "cis": "cis", "logten": "lg", "logtwo": "lb", "sqrt": "sqrt", "cbrt": "cbrt", "abs": "abs",
    "Abs": "abs", "floor": "floor", "ceiling": "ceil", "ceil": "ceil", "factorial": "fact",
    "sign": "sign", "sgn": "sign", "gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min",
}  # fmt: skip
"""Canonical names of functions, by spelling."""
