"""Reads which options an answer chooses: letters with or without the options' text."""

import re
from collections.abc import Iterator

from rstar_math.extraction import boxed
from rstar_math.tasks import ChoiceTask, letters
from rstar_math.verification.texts import normalize

MAX_CHARS = 20_000
"""Only the end of a longer text is read."""
_OPEN, _CLOSE = r"[\s*_\"'`“(\[{$:\\]{0,8}", r"[\s*_\"'`”)\]}.:$\\]{0,8}"
_NAMES = (
    r"(?:(?:options?|choices?|answers?|letters?|both|is|are|either|statements?)\b"
    r"[\s*:({\[]{0,4}){0,3}"
)
_ONE = re.compile(rf"{_OPEN}{_NAMES}{_OPEN}(?:\\text\w*\{{\(?)?([A-Z])(?![A-Za-z0-9'’_])")
_SEPARATOR = re.compile(
    rf"{_CLOSE}\s{{0,4}}(?:,\s{{0,4}}(?:and|&)|[,;/&+]|\band\b|\bor\b|\bas well as\b|\bplus\b)",
    re.IGNORECASE,
)
_MARKED = re.compile(r"(?:(?:^|[,;\n]|\band\b|&)[\s*]{0,4}[(\[]?([A-Z])[)\].:]|\(([A-Z])\))")
_ARTICLE = re.compile(
    r"\s+(?!(?:and|or|because|since|is|are|as|but|so|which|here|for|with)\b)[a-z]"
)
_STATEMENT = re.compile(
    r"\b(?:ans(?:wer)?|option|choice|letter|selection|response|pick|statement|solution)s?\b"
    r"[^.\n:=]{0,50}?"
    r"(?:\b(?:is|are|be)\b|[:=：])"
    r"|\b(?:choose|choosing|chose|pick|picking|select|selecting|go(?:ing)? with|go for|say"
    r"|think|believe|gives?|leaves?|leaving|points? to)\b"
    r"(?:\s+(?:that\s+)?it(?:'s|’s| is| must be))?"
    r"|\bit(?:'s|’s| is| must be| should be| has to be)\b|####"
    r"|\b(?:therefore|thus|hence|so|finally)\b,?|(?:=>|→|⇒)|\bbut\b(?=\s+\(?[A-Z]\b)"
    r"|\b(?:option|choice|answer|letter)s?(?=[\s*:]{1,4}[(\[*\"'`]{0,3}[A-Z]\b)",
    re.IGNORECASE,
)
_PREDICATE = re.compile(
    r"[^.\n]{0,60}?\b(?:is|are|seems?|looks?|must be|has to be|would be|fits?|works?)\b"
    r"(?P<no>\s+(?:not|never|clearly not|in)\b|n't)?\s{0,3}(?:(?:the|both|all|a|most|only|clearly|"
    r"therefore|also|definitely|my|our|final)\s+){0,4}"
    r"(?:correct|right|true|best|answers?|accurate|appropriate|choices?|options?|choice|fits?)\b",
    re.IGNORECASE,
)
_REVISION = re.compile(
    r"\b(?:wait|actually|correction|oops|sorry|on second thought|no,|let me re\w*|scratch that|"
    r"i was wrong|i made a mistake)\b",
    re.IGNORECASE,
)
_NEGATION = re.compile(
    r"\b(?:not|n't|never|eliminate|except|rather than|instead of|rule out|reject|neither|nor|than|"
    r"rules? out|exclud\w+)\s{0,3}(?:option|choice|answer|it(?:'s| is))?[\s(*]{0,4}$",
    re.IGNORECASE,
)
_CLAUSE_END = re.compile(
    r"[.!?](?=\s+[A-Z(]|\s*$)|\n"
    r"|,?\s(?:because|since|as it|as they|which|not|rather than|instead)\b"
)
_LOWER = re.compile(
    r"\W{0,8}([a-z])(?![A-Za-z0-9'’])(?=[).\]:,;*}]|\s*$|\s+(?:and|because|since)\b)"
)
_ANY_LETTER = re.compile(r"(?<![A-Za-z0-9'’])([A-Z])(?![A-Za-z0-9'’])")
_FIRST_LETTER = re.compile(r"[*_]{0,2}[(\[]?[A-Z](?:[)\].:,]|\s(?:because|since|as)\b)")
_MAX_STATEMENTS = 60


def read_choice(text: str, task: ChoiceTask) -> tuple[str, ...] | None:
    """The letters that an answer chooses, in ascending order; None if it chooses none.

    Read from, in this order: a box; what follows "the answer is" and what precedes "is correct",
    the last one of them; a last line of letters; an option's text. After "wait" or "actually" only
    what follows counts, if it chooses an option.
    """
    text = text.rpartition("</think>")[2].strip()[-MAX_CHARS:]
    box = boxed(text)
    if box is not None and (found := _in_segment(box, task)):
        return found
    revisions = [match.end() for match in _REVISION.finditer(text)][-1:]
    for start in (*revisions, 0):
        part = text[start:]
        found = (
            _in_segment(part, task, whole=True)
            or _in_statements(part, task)
            or _in_last_line(part, task)
            or _option_text(part, task)
        )
        if found:
            return found
    return None


def _in_statements(text: str, task: ChoiceTask) -> tuple[str, ...] | None:
    """The letters in the last statement that names some."""
    found: list[tuple[int, tuple[str, ...]]] = []
    for match in [*_STATEMENT.finditer(text)][-_MAX_STATEMENTS:]:
        segment = _clause(text[match.end() :])
        chosen = _in_segment(segment, task)
        if chosen and not _NEGATION.search(text[: match.start()]) and not _denied(segment):
            found.append((match.end(), chosen))
    for match in [*_ONE.finditer(text)][-_MAX_STATEMENTS:]:
        if match.start(1) and (text[match.start(1) - 1].isalnum() or _follows_letter(text, match)):
            continue
        chosen, end = _leading(text[match.start() :], task)
        predicate = _PREDICATE.match(text, match.start() + end) if chosen else None
        if predicate and not predicate["no"] and not _NEGATION.search(text[: match.start(1)]):
            found.append((match.start(1), chosen))
    return max(found)[1] if found else None


def _follows_letter(text: str, match: re.Match[str]) -> bool:
    """Whether the letter continues a list of letters, such as the C of "A and C"."""
    return (
        re.search(r"\b[A-Z]\W{0,3}\s*(?:,|and|&|or)\s*\W{0,3}$", text[: match.start(1)]) is not None
    )


def _denied(segment: str) -> bool:
    """Whether a clause says that its option is wrong."""
    return (
        re.search(r"\b(?:is|are)\s+(?:wrong|incorrect|false|not)\b|\bisn't\b", segment) is not None
    )


def _clause(text: str) -> str:
    """The text up to the end of its clause. The point after a letter does not end it."""
    for match in _CLAUSE_END.finditer(text[:400]):
        if text[: match.start()].strip(" *(\"'`[:"):
            head = text[: match.start()]
            if match[0].startswith((".", "\n")) and re.fullmatch(r"[\s*(:]*[A-Z]", head):
                continue
            return head
    return text[:400]


def _in_segment(segment: str, task: ChoiceTask, *, whole: bool = False) -> tuple[str, ...] | None:
    """The letters at the beginning of a short text, or the option whose text it is.

    With `whole`, the text must be nothing but letters or an option with its text.
    """
    if option := _same_option(segment, task):
        return (option,)
    if task.several and re.fullmatch(r"[A-Z]{2,}", word := segment.strip(' .*()`$"')):
        joined = set(word) <= set(letters(len(task.options))) and len(set(word)) == len(word)
        return tuple(sorted(word)) if joined else None
    chosen, end = _leading(segment, task)
    if chosen:
        rest = segment[end:]
        if task.several:
            valid = letters(len(task.options))
            marked = (m[1] or m[2] for m in _MARKED.finditer(rest))
            chosen = tuple(sorted({*chosen, *(letter for letter in marked if letter in valid)}))
        if not whole or not rest.strip(" \n\t.,;:)*\"'`]}$!") or _is_text_of(rest, chosen, task):
            return chosen
        return None
    if (match := _LOWER.match(segment)) and match[1].upper() in letters(len(task.options)):
        if (
            whole
            and segment[match.end() :].strip(" .):*]}")
            and not _is_text_of(segment[match.end() :], (match[1].upper(),), task)
        ):
            return None
        return (match[1].upper(),)
    return None if whole else _contained_option(segment, task)


def _leading(segment: str, task: ChoiceTask) -> tuple[tuple[str, ...], int]:
    """The list of letters at the beginning of a text, and where it ends."""
    valid, found, end = letters(len(task.options)), [], 0
    at = 0
    while match := _ONE.match(segment, at):
        letter, rest = match[1], segment[match.end() :]
        if letter not in valid:
            break
        marked = rest[:1] in tuple(")]:.*\"'`}") and rest[:1] != ""
        if letter in "AI" and not marked and _ARTICLE.match(rest):
            break
        found.append(letter)
        end = match.end()
        separator = _SEPARATOR.match(segment, end)
        if separator is None:
            break
        at = separator.end()
    return tuple(sorted(set(found))), end


def _in_last_line(text: str, task: ChoiceTask) -> tuple[str, ...] | None:
    """The letters of a last line that has nothing else, or that begins with "B." or "(B)"."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    last_sentence = re.split(r"(?<=[.!?])\s+", lines[-1])[-1]
    for line in (lines[-1], lines[0], last_sentence):
        if found := _in_segment(line, task, whole=True):
            return found
        if _FIRST_LETTER.match(line) and (found := _leading(line, task)[0]):
            return found
    return None


def _same_option(text: str, task: ChoiceTask) -> str | None:
    """The letter of the option whose text this is."""
    words = normalize(text)
    found = [
        letter
        for letter, option in zip(letters(26), task.options, strict=False)
        if words and words == normalize(option)
    ]
    return found[0] if len(found) == 1 else None


def _is_text_of(rest: str, chosen: tuple[str, ...], task: ChoiceTask) -> bool:
    """Whether what follows a letter is the text of its option."""
    if len(chosen) != 1:
        return task.several
    option = normalize(task.options[ord(chosen[0]) - ord("A")])
    return normalize(rest.lstrip(" .):-–—*]}\n\t")) == option


def _contained_option(text: str, task: ChoiceTask) -> tuple[str, ...] | None:
    """The options whose texts occur in a text as whole words, without those inside others."""
    words = f" {normalize(text)} "
    found = {
        letter: f" {option_words} "
        for letter, option in zip(letters(26), task.options, strict=False)
        if (option_words := normalize(option).removeprefix("it ")) and f" {option_words} " in words
    }
    kept = [
        letter
        for letter, option in found.items()
        if not any(option in other and option != other for other in found.values())
    ]
    if not kept or (len(kept) > 1 and not task.several):
        return None
    return tuple(kept)


def _option_text(text: str, task: ChoiceTask) -> tuple[str, ...] | None:
    """The option that one of the last two sentences names, by its letter or its text."""
    for sentence in _last_sentences(text):
        if letter := _only_letter(sentence, task):
            return (letter,)
        if not re.search(r"\b(?:not|n't|wrong|incorrect)\b", sentence) and (
            found := _contained_option(sentence, task)
        ):
            return found
    return None


def _only_letter(sentence: str, task: ChoiceTask) -> str | None:
    """The letter, if a sentence has only one that is not denied."""
    valid, found = letters(len(task.options)), set()
    for match in _ANY_LETTER.finditer(sentence):
        letter, rest = match[1], sentence[match.end() :]
        is_word = letter in "AI" and rest[:1] == " " and _ARTICLE.match(rest)
        if letter in valid and not is_word and not _NEGATION.search(sentence[: match.start()]):
            found.add(letter)
    return None if len(found) != 1 or _denied(sentence) else found.pop()


def _last_sentences(text: str) -> Iterator[str]:
    parts = re.split(r"(?<=[.!?;])\s+|\n+", text[-2000:])
    sentences = [part for part in parts if part.strip()]
    yield from reversed(sentences[-2:])
