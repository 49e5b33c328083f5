"""Parts of what starts, chooses and watches model servers; no process, no connection."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rstar_math.config.sections import ServersConfig
from rstar_math.evolution.recipe import load_recipe
from rstar_math.evolution.stages import Models, ModelVersion, config_for, deploy_policy
from rstar_math.llm.balancing import Replica, Replicas, affinity_key, request_affinity
from rstar_math.llm.metrics import MetricsSample, ServerMetrics, read_metrics
from rstar_math.llm.vllm_servers import ServerSpec, summarize_log, vllm_arguments
from rstar_math.prompts import few_shot_prompt, prompt_text
from rstar_math.testing import PromptCache
from rstar_math.types import Question

URLS = [f"http://10.0.0.{host}:8000/v1" for host in range(1, 9)]

METRICS = """
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b"} 3.0
vllm:num_requests_running{engine="1",model_name="a b"} 4.0
vllm:num_requests_waiting{engine="0",model_name="a b"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="a b",reason="capacity"} 9.0
vllm:prefix_cache_queries_total{engine="0",model_name="a b"} 1.2e+03
vllm:prefix_cache_queries_created{engine="0",model_name="a b"} 1.7953478e+09
vllm:prefix_cache_hits_total{engine="0",model_name="a b"} 900.0
"""


def fleet(count: int, **options: bool) -> Replicas:
    return Replicas(URLS[:count], None, 8, **options)


FIVE, TURNED = fleet(5), Replicas(list(reversed(URLS[:5])), None, 8)


def test_what_vllm_tells_is_read() -> None:
    assert read_metrics(METRICS) == MetricsSample(
        running=7, waiting=1, prefix_queries=1200, prefix_hits=900
    )
    assert read_metrics("<html>It works!</html>") is None
    assert read_metrics("llamacpp:requests_processing 3") is None
    assert read_metrics("vllm:num_requests_running nonsense\nvllm:num_requests_running -e") is None


def test_only_what_a_run_added_counts_also_when_a_server_began_again() -> None:
    use = ServerMetrics(fleet(2))
    for url in URLS[:2]:
        use.first[url] = MetricsSample(0, 0, 1000, 100)
    use.last[URLS[0]] = MetricsSample(0, 0, 1300, 400)
    use.last[URLS[1]] = MetricsSample(0, 0, 1100, 100)
    assert use.hit_rate == pytest.approx(300 / 400)
    use.running, use.waiting = [2.0, 4.0], [0.0, 1.0]
    assert use.as_json()["running"] == {"mean": 3.0, "max": 4.0}
    summary = use.summary()
    assert "3 running" in summary
    assert "75%" in summary


@given(st.lists(st.text(max_size=8).filter(bool), min_size=1, max_size=30), st.data())
def test_a_tree_has_one_home_and_stays_when_another_server_goes(
    trees: list[str], data: st.DataObject
) -> None:
    servers = FIVE
    for replica in servers.all:
        replica.probe_at, replica.outstanding_tokens = 0.0, 0
    homes = {tree: servers.select(tree, 10).url for tree in trees}
    assert {tree: TURNED.select(tree, 10).url for tree in trees} == homes
    gone = data.draw(st.sampled_from(servers.all))
    gone.probe_at = float("inf")
    for tree, home in homes.items():
        assert servers.select(tree, 10).url == home or home == gone.url


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 900)), max_size=200))
def test_no_server_gets_much_more_than_its_share(requests: list[tuple[int, int]]) -> None:
    """Bounded loads: a fourth more than the share, or eight requests where there are few."""
    servers = FIVE
    for replica in servers.all:
        replica.probe_at, replica.outstanding_tokens = 0.0, 0
    for tree, tokens in requests:
        chosen = servers.select(f"q{tree}", tokens)
        total = sum(replica.outstanding_tokens for replica in servers.all) + tokens
        assert chosen.outstanding_tokens + tokens <= max(1.25 * total / 5, 8 * tokens) + 1e-6
        chosen.outstanding_tokens += tokens


def test_who_has_just_failed_is_asked_last_and_the_last_one_anyway() -> None:
    servers = fleet(2)
    first, second = servers.all
    assert servers.select("q", 1, [first]) is second
    servers.mark_failed(second)
    assert servers.select("q", 1, [first]) is first, "the other is in trouble"
    servers.mark_failed(first)
    assert isinstance(servers.select("q", 1), Replica)
    pauses = []
    for _ in range(8):
        servers.mark_failed(second)
        pauses.append(second.probe_at)
    assert pauses == sorted(pauses)
    assert second.probe_at - first.probe_at < 31
    servers.mark_healthy(second)
    assert servers.select("q", 1) is second


def test_a_request_belongs_to_its_tree_or_else_to_its_question() -> None:
    question = Question("q1", "What is 6 times 7?")
    few, trained = few_shot_prompt(question), prompt_text(question)
    assert affinity_key(few) == affinity_key(trained + "<code>\n# More.") == trained.rstrip()
    assert affinity_key("Go on: ") == "Go on: "
    assert affinity_key("") == ""
    with request_affinity("q1"):
        assert affinity_key(few) == affinity_key("") == "q1"


def test_orders_are_said_as_vllm_understands_them(tmp_path: Path) -> None:
    plain = vllm_arguments(ServerSpec("runs/policy", "policy", args=("--dtype", "half")))
    assert plain[:3] == ["runs/policy", "--served-model-name", "policy"]
    assert plain[-2:] == ["--dtype", "half"], "what the user says comes last, and wins"
    assert "--enable-lora" not in plain
    scorer = vllm_arguments(ServerSpec("runs/ppm", "ppm", gpus="0", pooling=True))
    assert scorer == ["runs/ppm", "--served-model-name", "ppm", "--runner", "pooling"]
    for rank, said in ((4, "8"), (16, "16"), (48, "64")):
        (tmp_path / "adapter_config.json").write_text(f'{{"r": {rank}}}')
        tuned = vllm_arguments(ServerSpec("base", "base", adapters=(("tuned", str(tmp_path)),)))
        assert tuned[tuned.index("--max-lora-rank") + 1] == said


def test_the_cause_is_found_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "INFO starting\n(APIServer pid=2) WARNING 11-22 15:20:51 [a.py:1] may cause errors like "
        "`OSError: [Errno 24] Too many open files`\n"
        "(Worker pid=1) ValueError: No available memory for the cache blocks.\n"
        "  File x\nRuntimeError: Engine core initialization failed.\x1b[0m\nINFO bye\n"
    )
    said = summarize_log(log)
    assert said.startswith("ValueError: No available memory for the cache blocks. | RuntimeError")
    assert "\x1b" not in said
    log.write_text("one\n\ntwo\n")
    assert summarize_log(log) == "one | two"
    log.write_text("")
    assert summarize_log(log) == "it wrote nothing"
    assert "cannot be read" in summarize_log(tmp_path / "absent")


def test_a_round_is_served_by_vllm_where_the_recipe_says_so() -> None:
    recipe = load_recipe("smoke", ['engine="vllm"', 'servers.hardware_args=["--enforce-eager"]'])
    address = deploy_policy(recipe, Path("runs/round-1/policy"))
    assert address == "vllm:runs/round-1/policy"
    config = config_for(recipe, Models(ModelVersion(1, "x", address, "d")), use_ppm=False)
    assert config.model.url == address
    assert config.servers == ServersConfig(hardware_args=("--enforce-eager",))
    assert not config.model.embedded


def test_a_modelled_cache_finds_what_it_was_asked_for_before() -> None:
    cache = PromptCache(max_blocks=4, block_tokens=2)
    assert cache.look_up("a b c d e") == 0
    assert cache.look_up("a b c d x y") == 4
    assert cache.look_up("z b c d") == 0, "a block counts with all that is before it"
    assert cache.look_up("a b") == 0, "and what was used longest ago is gone"
    assert (cache.queried_tokens, cache.hit_tokens) == (5 + 6 + 4 + 2, 4)
    assert read_metrics(cache.metrics(3)) == MetricsSample(3, 0, 17, 4)
