"""Estimates of a cluster's hours: what each resource needs, and which is the bottleneck."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError
from rstar_math.evolution.capacity import (
    START_AND_END,
    Engine,
    Load,
    Machines,
    WorkloadProfile,
    estimate_capacity,
    gpu_names,
    gpu_speed,
    load_of,
    part,
    resource_seconds,
)
from rstar_math.evolution.recipe import load_recipe

ENGINE = Engine(slots=64, single=50.0, full=1600.0)
LOAD = Load(problems=200, calls=12, samples=4, tokens=50, programs=0.5)
AMPLE = Machines(ENGINE, cores=64, workers=64, node_ms=0.1, keep_ms=0.1)


def test_the_scarcest_resource_is_the_bottleneck() -> None:
    settings = {
        "servers": AMPLE,
        "sandbox": replace(AMPLE, cores=1, programs=10.0),
        "trees": replace(AMPLE, workers=1, node_ms=40.0),
        "driver": replace(AMPLE, keep_ms=4000.0),
    }
    for name, machines in settings.items():
        load = replace(LOAD, problems=4000)
        needs = resource_seconds(load, machines)
        found = part(name, load, machines, 2, None)
        assert found.bottleneck == name
        assert found.hours * 3600 == pytest.approx(START_AND_END * needs[name])
        assert max(found.busy.values()) == pytest.approx(1 / START_AND_END)
        assert found.gpu_hours == pytest.approx(2 * found.hours)


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
