"""Chat templates, hostile ones too, in the process that renders them."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from rstar_math.checkpoints.gguf_export import write_gguf
from rstar_math.config import ModelConfig, PolicyConfig
from rstar_math.errors import InputError
from rstar_math.llm.connect import connect
from rstar_math.policies.completions import StepPolicy
from rstar_math.prompts import chat_templates
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.training.tiny_model import save_tiny_policy
from rstar_math.types import Question

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
    monkeypatch.setattr(chat_templates, "TIMEOUT_S", 3.0)
    started = time.monotonic()
    with pytest.raises(InputError, match=r"chat template of bad\.gguf") as caught:
        ChatTemplate(source, source_name="bad.gguf").frame([("system", "Be brief.")])
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


def test_a_hostile_template_in_a_gguf_file_does_not_reach_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_templates, "TIMEOUT_S", 3.0)
    checkpoint = save_tiny_policy(tmp_path / "policy")
    (checkpoint / "rstar.json").unlink()
    config = checkpoint / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": ENDLESS}))
    file = write_gguf(checkpoint, tmp_path / "policy.gguf", kind="f32")

    async def ask(policy: PolicyConfig) -> str:
        model = await connect(ModelConfig(url=str(file), concurrency=2, context_tokens=256))
        try:
            found = StepPolicy(model, policy)
            await found.propose(Question("q", "What is 1 + 2?"), (), 1, seed=0)
            return found.renderer.mode
        finally:
            await model.aclose()

    started = time.monotonic()
    with pytest.raises(InputError, match="takes"):
        asyncio.run(ask(PolicyConfig()))
    assert (
        asyncio.run(ask(PolicyConfig(mode="completion", prompt="trained", max_step_tokens=8)))
        == "completion"
    )
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("content", "template"),
    [
        (b"[]", None),
        (b'{"chat_template": [3, {"name": "default", "template": "x"}]}', "x"),
        (b'{"chat_template": 3}', None),
        (b"\xff", InputError),
        (b"[" * 100_000, InputError),
    ],
)
def test_a_damaged_tokenizer_configuration_is_no_traceback(
    tmp_path: Path, content: bytes, template: str | type[InputError] | None
) -> None:
    (tmp_path / "tokenizer_config.json").write_bytes(content)
    if template is InputError:
        with pytest.raises(InputError, match="cannot be read"):
            chat_templates.template_of_tokenizer(tmp_path)
        return
    found = chat_templates.template_of_tokenizer(tmp_path)
    assert (found and found.source) == template
    assert chat_templates.template_of_gguf({"tokenizer.chat_template": 3}, "f") is None
    odd = {"tokenizer.chat_template": "x", "tokenizer.ggml.tokens": 7}
    assert chat_templates.template_of_gguf(odd, "f") is not None
