"""Several servers behind one client: who gets what, and what happens when one goes."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from rstar_math.config import Config, ModelConfig, load_config
from rstar_math.costs import track_cost
from rstar_math.errors import ConfigError, ModelRejectedError, ModelUnreachableError
from rstar_math.llm.balancing import request_affinity
from rstar_math.llm.client import OpenAIClient, Retry
from rstar_math.llm.connect import connect
from rstar_math.llm.metrics import monitor
from rstar_math.runs.results import run_conditions
from rstar_math.seeding import derive
from rstar_math.solver.solver import Solver
from rstar_math.testing import FakeServer, PromptCache, serving
from rstar_math.types import Cost, Problem, Question

QUICK = Retry(max_retries=3, timeout_s=5.0, pause_s=0.05)
Act = Callable[[int], None]


def answer(body: Mapping[str, Any]) -> Sequence[str]:
    """Answers that depend on the request alone, as those of equal servers do."""
    said = [derive(body["prompt"], body["seed"], at) % 1000 for at in range(body["n"])]
    return [f"# Say it.\nprint({number})\n<code/>" for number in said]


@contextmanager
def fleet(count: int, delay_s: float = 0.0) -> Iterator[list[FakeServer]]:
    with ExitStack() as stack:
        fakes = [stack.enter_context(serving(answer, delay_s=delay_s)) for _ in range(count)]
        for fake in fakes:
            fake.cache = PromptCache(block_tokens=4)
        yield fakes


@asynccontextmanager
async def client(
    fakes: Sequence[FakeServer], *, retry: Retry = QUICK, affinity: bool = True
) -> AsyncIterator[OpenAIClient]:
    url = ",".join(fake.url for fake in fakes)
    model = OpenAIClient(url, concurrency=8, retry=retry, affinity=affinity)
    try:
        await model.check_server()
        yield model
    finally:
        await model.aclose()


async def ask(model: OpenAIClient, tree: str, at: int = 0, tokens: int = 9) -> str:
    with request_affinity(tree):
        (found,) = await model.complete(
            f"{tree} {at}", n=1, stop=[], max_tokens=tokens, temperature=1.0, seed=at
        )
    return found.text


def trees_at(fake: FakeServer) -> set[str]:
    return {str(body["prompt"]).split()[0] for body in fake.requests}


def test_requests_of_a_tree_go_where_its_prefix_is() -> None:
    async def use(fakes: Sequence[FakeServer]) -> None:
        async with client(fakes) as model:
            for at in range(6):
                await asyncio.gather(*(ask(model, f"q{tree}", at) for tree in range(24)))

    with fleet(3) as fakes:
        asyncio.run(use(fakes))
        homes = [trees_at(fake) for fake in fakes]
    moved = sum(map(len, homes)) - 24
    assert set.union(*homes) == {f"q{tree}" for tree in range(24)}
    assert moved <= 6, "a tree lives at one server, but where that one is clearly busier"
    assert all(homes), (
        "and the trees are spread: by chance all 24 miss a server once in 5,000 times"
    )


def test_a_busy_server_is_spared() -> None:
    """One tree that asks for much at once does not queue at one server while others idle."""

    async def use(fakes: Sequence[FakeServer]) -> int:
        async with client(fakes) as model:
            await asyncio.gather(*(ask(model, "same", at) for at in range(48)))
            assert all(replica.outstanding_tokens == 0 for replica in model.replicas.all)
            return model.replicas.rerouted

    with fleet(3, delay_s=0.02) as fakes:
        moved = asyncio.run(use(fakes))
        counts = sorted(len(fake.requests) for fake in fakes)
    assert sum(counts) == 48
    assert counts[2] <= 28, "a fourth more than its share, and what came while it had time"
    assert counts[1] >= 12
    assert moved > 0


def test_without_affinity_the_one_with_least_to_do_is_asked() -> None:
    async def use(fakes: Sequence[FakeServer]) -> None:
        async with client(fakes, affinity=False) as model:
            await asyncio.gather(*(ask(model, "same", at) for at in range(30)))

    with fleet(3, delay_s=0.02) as fakes:
        asyncio.run(use(fakes))
        assert [len(fake.requests) for fake in fakes] == [10, 10, 10]


def test_a_server_that_dies_is_left_out_and_taken_back() -> None:
    async def use(fakes: list[FakeServer], stack: ExitStack, dying: ExitStack) -> Cost:
        async with client(fakes) as model:
            homes = [model.replicas.select(f"q{tree}", 9).url for tree in range(30)]
            trees = [f"q{tree}" for tree in range(30) if homes[tree] == fakes[1].url]
            before = [await ask(model, tree) for tree in trees]
            port = fakes[1].port
            dying.close()
            with track_cost() as cost:
                assert [await ask(model, tree) for tree in trees] == before
            assert model.replicas.all[1].probe_at > 0
            again = stack.enter_context(serving(answer, port=port))
            for _ in range(100):
                await ask(model, trees[0])
                if again.requests:
                    break
                await asyncio.sleep(0.1)
            assert again.requests, "its trees come back to it"
            assert model.replicas.all[1].consecutive_failures == 0
            return cost

    with ExitStack() as stack, ExitStack() as dying:
        fakes = [stack.enter_context(serving(answer))]
        fakes.append(dying.enter_context(serving(answer)))
        cost = asyncio.run(use(fakes, stack, dying))
    assert cost.failures == 0
    assert 0 < cost.retries <= 3, "it is left out after the first failure"


def test_what_comes_back_must_be_the_same_model() -> None:
    async def use(fakes: list[FakeServer], stack: ExitStack, dying: ExitStack) -> None:
        async with client(fakes) as model:
            port = fakes[1].port
            dying.close()
            model.replicas.mark_failed(model.replicas.all[1])
            other = stack.enter_context(serving(answer, model="other", port=port))
            for at in range(12):
                await ask(model, "q", at)
                await asyncio.sleep(0.1)
            assert not other.requests
            assert model.replicas.all[1].consecutive_failures > 1, "it was probed"

    with ExitStack() as stack, ExitStack() as dying:
        fakes = [stack.enter_context(serving(answer))]
        fakes.append(dying.enter_context(serving(answer)))
        asyncio.run(use(fakes, stack, dying))


@pytest.mark.parametrize("fault", [500, 503, "drop"])
def test_what_one_server_fails_at_another_answers_at_once(fault: Any) -> None:
    """Though the pause between tries at one server is longer than the test may take."""

    async def use(fakes: Sequence[FakeServer]) -> Cost:
        patient = Retry(max_retries=0, timeout_s=5.0, pause_s=1000.0)
        async with client(fakes, retry=patient) as model:
            with track_cost() as cost:
                for tree in range(24):
                    await ask(model, f"q{tree}")
            return cost

    with fleet(2) as fakes:
        fakes[0].fault_for = lambda body: fault
        cost = asyncio.run(use(fakes))
    assert (cost.calls, cost.failures) == (24, 0)
    assert cost.retries >= 1


def test_when_all_are_down_it_is_one_sentence() -> None:
    async def use(fakes: Sequence[FakeServer]) -> None:
        async with client(fakes) as model:
            await ask(model, "q")

    with fleet(2) as fakes:
        for fake in fakes:
            fake.fault_for = lambda body: 500
        with pytest.raises(ModelUnreachableError, match="after 5 attempts"):
            asyncio.run(use(fakes))


def test_one_of_several_may_be_away_at_the_start_but_none_may_refuse() -> None:
    async def greet(url: str, key: str | None = None) -> OpenAIClient:
        model = OpenAIClient(url, key=key)
        try:
            await model.check_server()
            return model
        finally:
            await model.aclose()

    gone = "http://127.0.0.1:9/v1"
    with fleet(2) as fakes:
        model = asyncio.run(greet(f"{gone},{fakes[0].url}"))
        assert model.replicas.all[0].probe_at > 0
        assert model.name == "fake"
        with pytest.raises(ModelUnreachableError, match="start it"):
            asyncio.run(greet(gone))
        fakes[1].key = "secret"
        with pytest.raises(ModelRejectedError, match="API key"):
            asyncio.run(greet(f"{fakes[0].url},{fakes[1].url}"))
        fakes[1].key, fakes[1].model = None, "other"
        with pytest.raises(ModelRejectedError, match="has no model 'fake'"):
            asyncio.run(greet(f"{fakes[0].url},{fakes[1].url}"))


def test_adapters_are_models_by_name() -> None:
    async def use(url: str, name: str) -> None:
        model = await connect(ModelConfig(url=url, name=name))
        await model.complete("1", n=1, stop=[], max_tokens=1, temperature=0.0, seed=0)
        await model.aclose()

    with fleet(1) as (fake,):
        fake.adapters = ("tuned",)
        asyncio.run(use(fake.url, "tuned"))
        assert fake.requests[-1]["model"] == "tuned"
        with pytest.raises(ModelRejectedError, match="one of: fake, tuned"):
            asyncio.run(use(fake.url, "absent"))


def search(urls: Sequence[str], act: Act = lambda done: None) -> dict[str, Any]:
    """The trees of a small search, as records; `act` is told how many are done."""
    settings = [
        "search.rollouts=4",
        "search.candidates=3",
        "search.max_depth=3",
        "sandbox.workers=1",
    ]
    config = load_config(None, [*settings, "grading.workers=1"], model=",".join(urls))
    problems = [Problem(Question(f"p{at}", f"What is {at} plus 1?")) for at in range(6)]

    async def work() -> dict[str, Any]:
        from rstar_math.search import to_record

        trees: dict[str, Any] = {}
        async with Solver(config) as solver:
            async with monitor(solver.servers, interval_s=0.05) as use:
                async for problem, found in solver.map(problems):
                    trees[problem.id] = to_record(found.tree)
                    act(len(trees))
            figures = use["policy"].as_json()
            assert figures["servers"] == len(urls)
            assert 0 < figures["cache_hit_rate"] < 1
        return trees

    return asyncio.run(work())


def test_a_search_finds_the_same_on_any_number_of_servers_also_when_one_dies() -> None:
    with fleet(1) as fakes:
        one = search([fake.url for fake in fakes])
    with fleet(3) as fakes:
        assert search([fake.url for fake in fakes]) == one
        per_tree = Counter(
            str(body["prompt"]).rpartition("Question: ")[2].partition("\n")[0]
            for fake in fakes
            for body in fake.requests
        )
        assert len(per_tree) == 6
    with ExitStack() as stack, ExitStack() as dying:
        fakes = [stack.enter_context(serving(answer, delay_s=0.01))]
        fakes.append(dying.enter_context(serving(answer, delay_s=0.01)))
        for fake in fakes:
            fake.cache = PromptCache(block_tokens=4)

        def kill(done: int) -> None:
            if done == 1:
                dying.close()

        assert search([fake.url for fake in fakes], kill) == one


def test_the_number_of_servers_is_no_condition_of_a_run(tmp_path: Path) -> None:
    def how(url: str, *settings: str) -> dict[str, Any]:
        return run_conditions(load_config(None, settings, model=url), guided=False)

    one = how("http://a/v1")
    assert how("http://a/v1,http://b/v1", "model.affinity=false") == one
    served = how("vllm:runs/policy")
    assert (
        how("vllm:runs/policy", "servers.replicas=4", 'servers.hardware_args=["--seed","1"]')
        == served
    )
    assert how("vllm:runs/other") != served
    assert how("vllm:runs/policy", "model.name=tuned") != served
    assert how("vllm:runs/policy", 'servers.args=["--dtype","half"]') != served


def test_addresses_may_be_a_list() -> None:
    config = Config.model_validate({"model": {"url": ["http://a/v1", "http://b/v1"]}})
    assert config.model.url == "http://a/v1,http://b/v1"
    assert (config.model.embedded, config.policy_server_count) == (False, 2)
    with pytest.raises(ConfigError, match="Unknown model"):
        asyncio.run(connect(ModelConfig(url="http://a/v1,local")))
