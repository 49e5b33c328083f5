"""Formulas of others as MathML: bounded in size, length and attributes, whatever they say."""

import re
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st
from latex2mathml import commands

from rstar_math.viewer.formulas import MAX_ELEMENTS, MAX_FORMULA_CHARS, formula
from tests.integration.viewer.runs import LARGE_FORMULAS

ATTRIBUTES = {"stretchy", "fence", "form", "separator", "accent", "accentunder", "columnalign"}
ATTRIBUTES |= {"mathvariant", "displaystyle", "movablelimits"}
LENGTHS = {"width", "lspace", "rspace", "minsize", "maxsize", "linethickness"}
MOST_EM = 4.0


def strings(value: Any) -> list[str]:
    """All strings in a table of the converter."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict | list | tuple | set | frozenset):
        return [text for each in value for text in strings(each)]
    return []


COMMANDS = sorted(
    {
        text
        for name in dir(commands)
        for text in strings(getattr(commands, name))
        if re.fullmatch(r"\\[A-Za-z]+", text)
    }
)
"""Every command that the converter knows."""
ARGUMENTS = [
    *("{", "}", "{}", "{x}", "[x]", "x", "1", "^", "_", "'", "&", r"\\", "(", ")", "|", " "),
    *("9999em", "{9999em}", "{-9999em}", "{1e9em}", "{99999999}", "{9999px}", "{900%}", "{3em}"),
    *("{red}", "{javascript:alert(1)}", '{" onload="x}', "{position:fixed}", "{<script>}"),
    *(r"\begin{matrix}", r"\end{matrix}", r"\of", r"\aa", r"{\aa}", "{\\aa\\aa}"),
]


def elements(mathml: str) -> list[Element]:
    return list(fromstring(mathml).iter("*"))


def assert_bounded(tex: str, mathml: str | None) -> None:
    """The MathML is well formed, not much longer than the formula, and has only short lengths."""
    if mathml is None:
        return
    found = elements(mathml)
    assert len(found) <= MAX_ELEMENTS + 2
    assert len(mathml) <= 200 + 250 * len(tex)
    for element in found:
        if element.tag in ("math", "span"):
            continue
        assert set(element.attrib) <= ATTRIBUTES | LENGTHS
        for name, value in element.attrib.items():
            if name not in LENGTHS:
                assert re.fullmatch(r"[a-z -]{1,40}", value)
            elif match := re.fullmatch(r"([+-]?[\d.]+)em", value):
                assert abs(float(match[1])) <= MOST_EM
            else:
                number = re.fullmatch(r"([+-]?[\d.]+)(ex|px|pt|pc|in|cm|mm)?", value)
                assert number is not None
                assert abs(float(number[1])) <= 64


@given(st.lists(st.sampled_from(COMMANDS) | st.sampled_from(ARGUMENTS), max_size=40).map("".join))
def test_no_formula_asks_for_more_room_than_its_length(tex: str) -> None:
    assert_bounded(tex, formula(tex, "inline"))


@pytest.mark.parametrize("argument", ["", "{}", "{}{}", "x", "1em", "{x}{y}", "{9999em}{9999em}"])
def test_no_command_doubles_its_argument_again_and_again(argument: str) -> None:
    bounded = 0
    for command in COMMANDS:
        for tex in (
            f"{command}{argument}" * 20 + "x",
            f"{command}{argument}{{" * 15 + "x" + "}" * 15,
        ):
            mathml = formula(tex, "block")
            assert_bounded(tex, mathml)
            bounded += mathml is not None
    assert bounded > 0


@pytest.mark.parametrize("tex", LARGE_FORMULAS)
def test_large_formulas_are_bounded_or_shown_as_text(tex: str) -> None:
    mathml = formula(tex, "inline")
    assert_bounded(tex, mathml)
    if r"\def" in tex or r"\sideset" in tex:
        assert mathml is None


@pytest.mark.parametrize(
    ("tex", "kept"),
    [
        (r"a\quad b", 'width="1em"'),
        (r"a\hspace{2em}b", 'width="2em"'),
        (r"a\!b", 'width="-0.167em"'),
        (r"\binom{n}{k}", 'linethickness="0"'),
        (r"\sideset{_1^2}{_3^4}\sum", "<msubsup>"),
        (r"\begin{array}{l r}a & b\\c & d\end{array}", 'columnalign="left"'),
    ],
)
def test_usual_spaces_and_lines_are_kept(tex: str, kept: str) -> None:
    assert kept in (formula(tex, "inline") or "")


def test_a_long_formula_can_scroll_and_a_longer_one_is_text() -> None:
    assert 'class="wide"' in (formula("x+" * 50 + "x", "inline") or "")
    assert 'class="wide"' not in (formula("x+x", "inline") or "")
    assert formula("x" * (MAX_FORMULA_CHARS + 1), "inline") is None
