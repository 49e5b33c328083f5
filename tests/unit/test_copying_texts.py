"""What a tiny base is shown before it is trained, and the tasks that it is trained on."""

import re
from itertools import islice

from rstar_math.problems.generated import toy_tasks
from rstar_math.training.tiny_model import copying_texts


def test_the_box_holds_what_was_printed_and_there_is_no_question_and_no_code() -> None:
    for read, answer in islice(copying_texts(), 200):
        printed = re.search(r"<output>\n(\d+)\n</output>\n$", read)
        assert printed
        assert f"\\boxed{{{printed[1]}}}" in answer
        assert "Question" not in read
        words = read.partition("\n<code/>")[0].removeprefix("<code>\n# ")
        assert re.fullmatch(r"[a-z]{2,6}( [a-z]{2,6}){2}", words)


def test_the_same_seed_gives_the_same_texts() -> None:
    first, again, other = (list(islice(copying_texts(seed), 5)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_toy_tasks_come_in_fourteen_patterns_with_answers_of_two_digits() -> None:
    tasks = list(toy_tasks(500, seed=1))
    texts = {task.problem.question.text for task in tasks}
    assert len(texts) == 500
    names = r"Ann|Bob|Eve|Tom|pears|books|coins|cards|\d+"
    assert len({re.sub(names, "_", text) for text in texts}) == 14
    assert {len(task.problem.reference_text or "") for task in tasks} == {2}
