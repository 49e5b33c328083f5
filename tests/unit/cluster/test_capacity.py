"""Estimates of a cluster's hours: what each resource needs, and which is the bottleneck."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from rstar_math.cli import app
from rstar_math.errors import ConfigError
from rstar_math.evolution.capacity import (
    OVERHEAD,
    Hardware,
    ServerSpeed,
    Workload,
    WorkloadProfile,
    estimate_search,
    gpu_names,
    gpu_speed,
    resource_seconds,
    search_workloads,
    workload_of,
)
from rstar_math.evolution.recipe import load_recipe

SERVER = ServerSpeed(max_batch=64, single_tokens_per_s=50.0, full_tokens_per_s=1600.0)
WORK = Workload(problems=200, calls=12, samples=4, tokens=50, programs=0.5)
AMPLE = Hardware(SERVER, cores=64, workers=64, node_ms=0.1, driver_ms=0.1)


def test_the_scarcest_resource_is_the_bottleneck() -> None:
    settings = {
        "servers": AMPLE,
        "sandbox": replace(AMPLE, cores=1, programs_per_s=10.0),
        "trees": replace(AMPLE, workers=1, node_ms=40.0),
        "driver": replace(AMPLE, driver_ms=4000.0),
    }
    for name, hardware in settings.items():
        work = replace(WORK, problems=4000)
        needs = resource_seconds(work, hardware)
        found = estimate_search(name, work, hardware, 2, None)
        assert found.bottleneck == name
        assert found.hours * 3600 == pytest.approx(OVERHEAD * needs[name])
        assert max(found.utilization.values()) == pytest.approx(1 / OVERHEAD)
        assert found.gpu_hours == pytest.approx(2 * found.hours)


def test_waiting_holds_up_too_few_searches() -> None:
    hardware = replace(AMPLE, in_flight=2)
    found = estimate_search("x", replace(WORK, problems=100), hardware, 1, 2.0)
    assert found.bottleneck == "waiting"
    assert found.price == pytest.approx(2.0 * found.hours)


def test_the_rounds_of_the_paper() -> None:
    workloads = search_workloads(
        load_recipe("paper-7b").rounds, 1000, WorkloadProfile(), unsolved=0.1
    )
    sizes = {
        name: (work.problems, round(work.calls), round(work.samples)) for name, work in workloads
    }
    assert sizes == {
        "1/search": (1000, 32, 5),
        "2/search": (1000, 64, 8),
        "3/search": (1000, 64, 8),
        "4/search": (1000, 128, 16),
        "4/more-1": (100, 256, 16),
        "4/more-2": (100, 512, 16),
    }
    assert workload_of(WorkloadProfile(), 10, 2, 8).sampled_tokens == 10 * 2 * 4 * 8 * 60


def test_speeds_from_data_sheets() -> None:
    speeds = {name: gpu_speed(name, params=7.6, max_batch=256) for name in gpu_names()}
    assert (
        speeds["A100"].full_tokens_per_s
        > speeds["A100-40GB"].full_tokens_per_s
        > speeds["L4"].full_tokens_per_s
    )
    for name, speed in speeds.items():
        assert speed.single_tokens_per_s < speed.full_tokens_per_s < speed.prefill_tokens_per_s, (
            name
        )
        assert speed.full_tokens_per_s <= speed.max_batch * speed.single_tokens_per_s
    with pytest.raises(ConfigError, match="Z80"):
        gpu_speed("Z80", params=7.6, max_batch=1)
    with pytest.raises(ConfigError, match="does not fit one L4"):
        gpu_speed("L4", params=70, max_batch=1)


def test_the_command() -> None:
    args = "estimate-cluster --recipe smoke --problems 2000 --gpus 8xA100 --price 2"
    args += " --tokens-per-second 3000"
    run = CliRunner().invoke(
        app, [*args.split(), "--cores", "8", "--programs-per-second", "5", "--json"]
    )
    found = json.loads(run.stdout)
    assert found["hardware"]["server"]["full_tokens_per_s"] == 3000
    assert found["hours"] == pytest.approx(sum(one["hours"] for one in found["searches"]))
    assert found["price"] == pytest.approx(16 * found["hours"])
    assert {one["bottleneck"] for one in found["searches"]} == {"sandbox"}
    with pytest.raises(ConfigError, match="for example 60xA100"):
        CliRunner().invoke(
            app, ["estimate-cluster", "--problems", "1", "--gpus", "A100"], catch_exceptions=False
        )
