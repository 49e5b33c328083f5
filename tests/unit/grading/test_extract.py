"""Finding the answer in prose."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.grading import extract_answer

_FOUND = [
    ("So the answer is \\boxed{42}.", "42"),
    ("\\boxed{1} and then \\boxed{2}", "2"),
    ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
    ("\\boxed {7}", "7"),
    ("\\fbox{7}", "7"),
    ("\\boxed 5", "5"),
    ("\\boxed 5.", "5"),
    ("\\boxed{5", None),
    ("\\boxed{3} but \\boxed{", "3"),
    ("\\boxed{3} but \\boxed{4", "3"),
    ("\\boxed{}", None),
    ("\\boxed{ }", None),
    ("\\boxed{\\boxed{3}}", "3"),
    ("\\boxed{3} \\boxed{}", "3"),
    ("$\\boxed{x^2 + {y}}$ follows", "x^2 + {y}"),
    ("The answer is 12.", "12"),
    ("The answer is: 12", "12"),
    ("the final answer is $\\frac{3}{4}$.", "\\frac{3}{4}"),
    ("The answer is 3.14. Good.", "3.14"),
    ("First the answer is 3. No, the answer is 4.", "4"),
    ("Answer: 5", "5"),
    ("**Answer:** 5", "5"),
    ("**Final Answer**: **5**", "5"),
    ("... = 18\n#### 18", "18"),
    ("The answer is (B).", "(B)"),
    ("The correct option is C", "C"),
    ("I choose option (D) here", "D"),
    ("The answer is yes.", "yes"),
    ("Therefore, x is 7.", "7"),
    ("We compute.\n42", "42"),
    ("42\n", "42"),
    ("3.50", "3.50"),
    ("$42$", "42"),
    ("C", "C"),
    ("(C)", "(C)"),
    ("Yes.", "Yes"),
    ("no", "no"),
    ("-3/4", "-3/4"),
    ("x = 5", "x = 5"),
    ("[2, 3]", "[2, 3]"),
    ("Rational(1, 2)", "Rational(1, 2)"),
    ("sqrt(5) + 1", "sqrt(5) + 1"),
    ("$\\frac{1}{2}$", "\\frac{1}{2}"),
    ("", None),
    ("   \n ", None),
    ("I do not know.", None),
    ("Let us think step by step.", None),
    ("We add the numbers and", None),
    ("The answer is", None),
    ("The answer is .", None),
]


@pytest.mark.parametrize(("text", "answer"), _FOUND, ids=[repr(text[:40]) for text, _ in _FOUND])
def test_the_answer_is_found(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@given(st.text(alphabet="\\boxed{} 5$answeri\n.:#*", max_size=200))
def test_any_text_gives_an_answer_or_none(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or answer.strip()


@given(st.text(alphabet="abc123+-^{}\\ ", min_size=1, max_size=30))
def test_a_balanced_box_is_found_whole(content: str) -> None:
    plain = content.replace("\\", "").replace("{", "").replace("}", "").strip()
    if plain:
        assert extract_answer(f"thus \\boxed{{{plain}}} holds") == plain


def test_importing_the_package_loads_no_algebra() -> None:
    program = (
        "import sys, rstar_math.grading as g;"
        "g.extract_answer('\\\\boxed{5}');"
        "sys.exit(any(name in sys.modules for name in ('sympy', 'mpmath', 'math_verify')))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
