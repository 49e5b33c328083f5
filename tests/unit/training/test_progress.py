"""Lines of progress: at the first and last step, and in between as often as asked."""

from dataclasses import dataclass

from rstar_math.training.progress import Progress


@dataclass
class State:
    max_steps: int
    global_step: int = 0
    is_world_process_zero: bool = True


def lines(every_s: float, step_s: float, steps: int = 20, parts: int = 2) -> list[str]:
    said: list[str] = []
    now = 0.0
    state = State(steps)
    progress = Progress(
        said.append, every_s=every_s, tokens=len, trained=lambda _: 1, clock=lambda: now
    )
    for _ in range(steps):
        progress.begin_step(state)
        for _ in range(parts):
            now += step_s / parts
            progress.end_micro_batch([[0] * 50])
        state.global_step += 1
        progress.end_step(1.5)
    return said


def test_quick_steps_are_told_together() -> None:
    said = lines(every_s=30, step_s=2)
    starts = [line.split(",")[0] for line in said]
    assert starts == ["step 1 of 20", "step 16 of 20", "step 20 of 20"]
    assert "loss 1.5000, 50 tokens/s (1 trained), 8 s left" in said[1]


def test_long_steps_are_told_while_they_last() -> None:
    said = lines(every_s=30, step_s=400, steps=2, parts=10)
    assert len(said) == 2 * 11
    assert said[0] == "step 1 of 2, 1 examples done, 1 tokens/s (0 trained)"
    assert all(line.startswith("step ") for line in said)


def test_every_step_is_told_on_request() -> None:
    assert len(lines(every_s=0, step_s=1)) == 20


def test_a_process_that_is_not_the_first_says_nothing() -> None:
    said: list[str] = []
    progress = Progress(said.append, every_s=0, tokens=len)
    progress.begin_step(State(3, is_world_process_zero=False))
    progress.end_micro_batch([[1]])
    progress.end_step(1.0)
    assert not said
