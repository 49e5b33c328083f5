"""Chat templates, hostile ones too, in the process that renders them."""

import time

import pytest

from rstar_math.errors import InputError
from rstar_math.steps import chat_template
from rstar_math.steps.chat_template import ChatTemplate

ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(9999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)
GROWING = "{% for a in range(99999) %}{% for b in range(99999) %}xxxxxxxx{% endfor %}{% endfor %}"
DOUBLING = (
    "{% set ns = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}"
)


@pytest.mark.parametrize(
    "source",
    [
        ENDLESS,
        GROWING,
        DOUBLING,
        "{{ 'a' * 10**10 }}",
        "{{ messages[0].__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{% include '/etc/passwd' %}",
        "{{ raise_exception('no') }}",
        "{% for m in messages %}",
        "nothing of the messages",
        "{{ messages }}" * 100_000,
    ],
)
def test_a_hostile_template_is_one_sentence(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "TIMEOUT_S", 3.0)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"chat template of bad\.gguf") as caught:
        ChatTemplate(source, where="bad.gguf").frame([("system", "Be brief.")])
    assert time.monotonic() - started < 30
    assert "\n" not in str(caught.value)


def test_a_template_of_a_hybrid_reasoning_model_is_told_whether_to_think() -> None:
    source = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>"
        "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
    )
    template = ChatTemplate(source)
    assert template.frame([]).after.endswith("<think>\n\n</think>\n\n")
    assert template.frame([], thinking=True).after == "</s><assistant>"
    assert template.frame([]).end_of_turn == "</s>"
