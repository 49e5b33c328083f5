"""Prompt sets and renderers."""

import contextlib
import io
import pickle
from pathlib import Path

import pytest

from rstar_math.config import PolicyConfig
from rstar_math.errors import ConfigError, InputError
from rstar_math.models.prompting import Prompting, conversation_for, renderer_for, scorer_renderer
from rstar_math.prompts import FENCED, TAGS, ChatPrompt, make_renderer
from rstar_math.prompts.chat_templates import ChatTemplate
from rstar_math.prompts.prompt_sets import built_in_sets, load_prompt_set
from rstar_math.types import Execution, ExecutionStatus, Question, Step

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<start>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}"
)
QUESTION = Question("q", "How many?")
STEP = Step("# Add.\n", "print(3 + 4)\n", "code", execution=Execution(ExecutionStatus.OK, "7\n"))


@pytest.mark.parametrize("name", built_in_sets())
def test_the_programs_of_worked_examples_print_what_they_say(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for example in load_prompt_set(name).examples:
        namespace: dict[str, object] = {}
        printed = io.StringIO()
        given = example.problem.partition("Example input:\n")[2].partition("Example output")[0]
        monkeypatch.setattr("sys.stdin", io.StringIO(given))
        with contextlib.redirect_stdout(printed):
            exec("".join(step.code for step in example.steps), namespace)
        said = "".join(s.execution.stdout for s in example.steps if s.execution is not None)
        assert printed.getvalue() == said
        assert example.steps[-1].answer


def test_a_prompt_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'system = "Be brief."\n[[examples]]\nproblem = "1 + 1?"\nsolution = """\n'
        "```python\n# Add.\nprint(1 + 1)\n```\n```output\n2\n```\nIt is \\\\boxed{2}.\n" + '"""\n'
    )
    renderer = renderer_for(PolicyConfig(prompt=str(file)))
    assert renderer.prompt(QUESTION, ()).startswith("Question: 1 + 1?\n<code>\n# Add.\n")
    chat = renderer_for(PolicyConfig(prompt=str(file)), Prompting(template=ChatTemplate(CHATML)))
    assert chat.prompt(QUESTION, ()) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n```python\n# Add.\nprint(1 + 1)\n```\n```output\n2\n```\n"
        "It is \\boxed{2}.<|im_end|>\n<|im_start|>user\nHow many?<|im_end|>\n"
        "<|im_start|>assistant\n```python\n"
    )


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("system = ", "TOML"),
        ("sytem = 'x'", "sytem"),
        ("[[examples]]\nproblem = 'a'", "solution"),
        ("[[examples]]\nproblem = 'a'\nsolution = 'It is 2.'", "python"),
        (
            "[[examples]]\nproblem = 'a'\nsolution = '''```python\nx = 1\n```\n```output\n```\n'''",
            "answer",
        ),
        ("# " + "x" * 300_000, "bytes"),
    ],
)
def test_a_bad_prompt_file_is_refused_when_it_is_read(
    tmp_path: Path, content: str, word: str
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=word):
        load_prompt_set(str(file))


def test_a_prompt_that_is_not_there_names_those_that_are() -> None:
    with pytest.raises(ConfigError, match="grade-school"):
        renderer_for(PolicyConfig(prompt="nowhere.toml"))


def test_the_end_of_a_turn_is_a_stop_and_the_beginning_of_text_is_not_doubled() -> None:
    template = ChatTemplate(NO_SYSTEM, bos_token="<bos>", eos_token="<eos>")
    renderer = make_renderer(prompt="trained", mode="template", template=template)
    assert renderer.end_of_turn == "<end>"
    assert "<end>" in renderer.stops
    prompt = renderer.prompt(QUESTION, ())
    assert "<bos>" not in prompt
    assert prompt.startswith("<start>user\nSolve the problem")
    assert prompt.endswith("How many?<end>\n<start>model\n```python\n")


def test_what_is_asked_is_what_a_model_is_trained_on() -> None:
    known = Prompting(
        template=ChatTemplate(CHATML),
        trained={"prompt": "trained", "format": "fenced", "mode": "chat"},
    )
    policy, scorer = renderer_for(PolicyConfig(), known), scorer_renderer(known)
    assert policy.prompt(QUESTION, [STEP]) == scorer.question_prompt(QUESTION) + scorer.solution(
        [STEP]
    )
    assert policy.description == known.trained
    plain = renderer_for(PolicyConfig(mode="completion", format="tags"), known)
    assert plain.prompt(QUESTION, ()) == "Question: How many?\n<code>\n"


@pytest.mark.parametrize(
    ("config", "known", "mode", "step_format"),
    [
        (PolicyConfig(), Prompting(), "completion", TAGS),
        (PolicyConfig(), Prompting(chat=True), "completion", TAGS),
        (PolicyConfig(), Prompting(continues=True, chat=True), "messages", FENCED),
        (PolicyConfig(mode="chat"), Prompting(chat=True), "messages", FENCED),
        (PolicyConfig(), Prompting(template=ChatTemplate(CHATML)), "template", FENCED),
        (PolicyConfig(format="tags"), Prompting(template=ChatTemplate(CHATML)), "template", TAGS),
        (
            PolicyConfig(mode="completion"),
            Prompting(template=ChatTemplate(CHATML)),
            "completion",
            TAGS,
        ),
    ],
)
def test_the_way_of_asking_follows_from_what_is_known(
    config: PolicyConfig, known: Prompting, mode: str, step_format: object
) -> None:
    renderer = renderer_for(config, known)
    assert (renderer.mode, renderer.format) == (mode, step_format)
    assert (conversation_for(config, known) is None) == (mode == "completion")


def test_chat_without_a_template_or_a_route_is_refused() -> None:
    with pytest.raises(ConfigError, match="completion"):
        renderer_for(PolicyConfig(mode="chat"), Prompting())


def test_a_chat_prompt_is_text_that_keeps_its_messages() -> None:
    renderer = make_renderer(prompt="trained", mode="messages")
    prompt = renderer.prompt(QUESTION, [STEP])
    assert isinstance(prompt, ChatPrompt)
    assert [role for role, _ in prompt.messages] == ["system", "user"]
    assert prompt.partial.endswith("```output\n7\n```\n")
    again = pickle.loads(pickle.dumps(prompt))
    assert again == prompt
    assert again.messages == prompt.messages
    assert hash(prompt) == hash(str(prompt))


def test_steps_of_other_grammars_have_no_text() -> None:
    with pytest.raises(InputError, match="A3"):
        make_renderer().solution([Step("What?", kind="A3")])
