"""The capacity model: queues whose answers are known, and plans that name what holds them up."""

import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError
from rstar_math.evolution.capacity import (
    WorkloadProfile,
    estimate_capacity,
    gpu_names,
    gpu_speed,
    load_of,
    part,
    resource_seconds,
)
from rstar_math.evolution.recipe import load_recipe
from rstar_math.evolution.simulation import Clock, Engine, Line, Load, Machines, Replica, simulate

ENGINE = Engine(slots=64, single=50.0, full=1600.0)
LOAD = Load(problems=200, calls=12, samples=4, tokens=50, programs=0.5)
AMPLE = Machines(ENGINE, cores=64, workers=64, node_ms=0.1, keep_ms=0.1)


def test_a_line_serves_first_come_first_served() -> None:
    clock = Clock()
    line, ends = Line(clock, 2), []
    for work in (3.0, 1.0, 1.0, 1.0):
        line.take([work], lambda: ends.append(clock.now))
    clock.run()
    assert ends == [1.0, 2.0, 3.0, 3.0]
    assert line.share(line.used, clock.now) == 1.0


def test_samples_share_a_replica() -> None:
    """Two samples of 100 and 200 tokens at 10 tokens a second alone and 15 together: the first is
    done after 100 / 7.5 s, the second has 100 left and decodes them at 10."""
    clock = Clock()
    replica, ends = Replica(clock, Engine(slots=2, single=10.0, full=15.0)), []
    replica.take([100.0, 200.0, 50.0], lambda: ends.append(clock.now))
    clock.run()
    first = 100 / 7.5
    assert ends[0] == pytest.approx(first)
    assert ends[1] == pytest.approx(first + 50 / 7.5)
    assert ends[2] == pytest.approx(first + 50 / 7.5 + 50 / 10)


@given(
    count=st.integers(1, 40),
    slots=st.integers(1, 16),
    side=st.integers(1, 3),
    flight=st.integers(1, 30),
)
@settings(max_examples=20, deadline=None)
def test_no_search_is_faster_than_what_it_needs(
    count: int, slots: int, side: int, flight: int
) -> None:
    load = replace(LOAD, problems=count, calls=4, side=side, spread=0.0)
    machines = replace(AMPLE, engine=replace(ENGINE, slots=slots), in_flight=flight)
    played = simulate(load, machines)
    assert played.whole
    assert all(0 <= share <= 1 + 1e-9 for share in played.busy.values())
    needed = played.busy["servers"] * played.seconds
    assert played.seconds >= needed - 1e-6
    assert played.seconds >= load.tokens / ENGINE.single


def test_what_is_scarce_is_what_the_time_goes_to() -> None:
    """With one resource scarce, the simulation comes to what that one needs, a few hundredths
    more for the beginning and the end."""
    settings_ = {
        "servers": replace(AMPLE),
        "sandbox": replace(AMPLE, cores=1, programs=10.0),
        "trees": replace(AMPLE, workers=1, node_ms=40.0),
        "driver": replace(AMPLE, keep_ms=4000.0),
    }
    for name, machines in settings_.items():
        load = replace(LOAD, problems=4000)
        needs = resource_seconds(load, machines)
        assert max(needs, key=lambda key: needs[key]) == name
        played = simulate(load, machines)
        assert not played.whole
        assert played.seconds == pytest.approx(needs[name], rel=0.12), name
        assert played.busy[name] > 0.85


def test_a_large_search_is_reckoned_from_its_steady_part() -> None:
    load = replace(LOAD, problems=800)
    whole = simulate(load, AMPLE, most=10**9)
    cut = simulate(load, AMPLE, most=1)
    assert whole.whole
    assert not cut.whole
    assert cut.seconds == pytest.approx(whole.seconds, rel=0.08)


def test_waiting_holds_up_too_few_searches() -> None:
    machines = replace(AMPLE, in_flight=2)
    found = part("x", replace(LOAD, problems=100), machines, 1, 2.0)
    assert found.bottleneck == "waiting"
    assert found.price == pytest.approx(2.0 * found.hours)


def test_the_rounds_of_the_paper() -> None:
    loads = estimate_capacity(load_recipe("paper-7b").rounds, 1000, WorkloadProfile(), unsolved=0.1)
    sizes = {name: (load.problems, round(load.calls), round(load.samples)) for name, load in loads}
    assert sizes == {
        "1/search": (1000, 32, 5),
        "2/search": (1000, 64, 8),
        "3/search": (1000, 64, 8),
        "4/search": (1000, 128, 16),
        "4/more-1": (100, 256, 16),
        "4/more-2": (100, 512, 16),
    }
    assert load_of(WorkloadProfile(), 10, 2, 8).sampled == 10 * 2 * 4 * 8 * 60


def test_engines_from_data_sheets() -> None:
    engines = {name: gpu_speed(name, params=7.6, slots=256) for name in gpu_names()}
    assert engines["A100"].full > engines["A100-40GB"].full > engines["L4"].full
    for name, engine in engines.items():
        assert engine.single < engine.full < engine.prefill, name
        assert engine.full <= engine.slots * engine.single
    with pytest.raises(ConfigError, match="not in the list of GPUs"):
        gpu_speed("Z80", params=7.6, slots=1)
    with pytest.raises(ConfigError, match="does not fit one L4"):
        gpu_speed("L4", params=70, slots=1)


def test_the_command() -> None:
    args = "estimate-cluster --recipe smoke --problems 2000 --gpus 8xA100 --price 2"
    args += " --tokens-per-second 3000"
    run = CliRunner().invoke(
        app, [*args.split(), "--cores", "8", "--programs-per-second", "5", "--json"]
    )
    found = json.loads(run.stdout)
    assert found["machines"]["engine"]["full"] == 3000
    assert found["hours"] == pytest.approx(sum(one["hours"] for one in found["parts"]))
    assert found["price"] == pytest.approx(16 * found["hours"])
    assert {one["bottleneck"] for one in found["parts"]} == {"sandbox"}
    with pytest.raises(ConfigError, match="for example 60xA100"):
        CliRunner().invoke(
            app, ["estimate-cluster", "--problems", "1", "--gpus", "A100"], catch_exceptions=False
        )
