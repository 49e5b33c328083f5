"""Finding the answer in prose."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.extraction import extract_answer, extract_stated_answer

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
_WHOLE_OUTPUTS = [
    ("The final answer is 48. Note that the answer is not 50.", "48"),
    ("The answer is 48. Remember that the answer is always positive.", "48"),
    ("The answer is 48. Therefore, the shop is open on 6 days.", "48"),
    ("Final Answer: 12\n\nThe result of the check is 13 - 1.", "12"),
    ("The final answer is 12. Wait, I forgot one. The answer is 13.", "13"),
    ("The answer is 5. No, the answer is 7.", "7"),
    ("So 48 is the answer.", "48"),
    ("Hence $x = 3$ is the only solution.", "x = 3"),
    ("Thus (2, 3) is the required solution.", "(2, 3)"),
    ("What is the answer? It is 7 apples.", "7"),
    ("Final Answer: Tom has 48 apples left.", "48"),
    ("Final answer: The train takes 3.5 hours.", "3.5"),
    ("#### 35 cups\nThat is 7 a day.", "35 cups"),
    ("#### 35\n#### 36", "36"),
    ("x is \\boxed{2} or \\boxed{3}", "2, 3"),
    ("$x=\\boxed{2}$, $y=\\boxed{3}$", "2, 3"),
    ("The points are \\boxed{(1,2)} and \\boxed{(3,4)}.", "(1,2), (3,4)"),
    ("\\boxed{5}, \\boxed{5}", "5"),
    ("First \\boxed{5}. Then, after a check, \\boxed{6}", "6"),
    ("First \\boxed{5}\n\n\\boxed{6}", "6"),
    ("The answer is 23<|im_end|>", "23"),
    ("The answer is 23<|end|><|endoftext|>", "23"),
    ("The answer is 23<end_of_turn>", "23"),
    ("The answer is 23<eos>", "23"),
    ("The answer is 23<｜end▁of▁sentence｜>", "23"),
    ("The answer is 23</s><s>[INST] What is 4+4? [/INST] The answer is 8", "23"),
    ("<|im_start|>assistant\nThe answer is 23<|im_end|>", "23"),
    (
        "<|channel|>analysis<|message|>The answer is 4?<|end|>"
        "<|start|>assistant<|channel|>final<|message|>The answer is 5<|return|>",
        "5",
    ),
    ("<think>The answer is 4.</think>The answer is 5.", "5"),
    ("It is <|begin_of_box|>63<|end_of_box|>", "63"),
    ("She has 31 cups left.", "31"),
    ("So there are 12 of them in the box, because 3 * 4 = 12.", "12"),
    ("In 5 days she earns $120.", "$120"),
    ("She earns $120 in 5 days.", "$120"),
    ("He reads 3 + 4 = 7 books.", "7"),
    ("They need **14** chairs for 3 rooms.", "14"),
    ("Dana pays 40% of the price.", "40%"),
    ('The answer is "48".', "48"),
    ("The answer is “48”.", "48"),
    ("The answer is **48**.", "48"),
    ("**The answer is 48**", "48"),
    ("The answer is `48`", "48"),
    ("The answer is 48, in total.", "48"),
    ("The answer is 48 cups, all told.", "48 cups"),
    ("The answer is 2, 4, and 9.", "2, 4, and 9"),
    ("The answer is 3, sqrt(5)", "3, sqrt(5)"),
    ("The answer is Paris, France.", "Paris, France"),
    ("The answer is 1,024.", "1,024"),
    ("The answer is 5, not 6.", "5"),
    ("The answer is $5, but only on Sundays.", "$5"),
    ("The answer is \\text{48}.", "\\text{48}"),
    ("We have x=3 and y=4. The solution is (3,4).", "(3,4)"),
    ("The solution is simple. We add 4 and 5. The answer is 9.", "9"),
    ("The answer is 9. The solution is simple.", "9"),
    ("答案是 48。", "48"),
    ("The answer is E", "E"),
    ("The answer is (C), since 4 is even.", "(C)"),
    ("So the total is 3/4 of a mile", "3/4"),
    ("There are 1,200 of them.", "1,200"),
    ("The probability is 0.25.", "0.25"),
    ("The temperature is -4 degrees.", "-4"),
    ("The largest value is $\\frac{3}{4}$.", "\\frac{3}{4}"),
    ("It takes 90 minutes for 3 people.", "90"),
    ("I do not know.", None),
    ("\\boxed{5", None),
    ("How many are left?", None),
]
"""Whole outputs of models: remarks, revisions, several boxes, special tokens, plain sentences."""


@pytest.mark.parametrize(("text", "answer"), _FOUND, ids=[repr(text[:40]) for text, _ in _FOUND])
def test_the_answer_is_found(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer
    assert extract_stated_answer(text) == answer


@pytest.mark.parametrize(("text", "answer"), _WHOLE_OUTPUTS)
def test_the_answer_of_a_whole_output_is_found(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("text", ["She has 3 cups.", "We add 3 and 4.", "He ate 5 of 12 apples."])
def test_a_part_of_a_solution_has_no_answer_yet(text: str) -> None:
    assert extract_answer(text) is not None
    assert extract_stated_answer(text) is None


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
