"""What trackers recorded, read by their own readers."""

from pathlib import Path

Series = dict[str, list[tuple[int, float]]]
"""(step, value) by the name of the figure."""


def read_tensorboard(folder: Path) -> tuple[Series, dict[str, str]]:
    """The figures and the texts of one run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    tags = events.Tags()
    series = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in tags["scalars"]}
    texts = {
        tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in tags["tensors"]
    }
    return series, texts


def read_mlflow(name: str) -> tuple[Series, dict[str, str], str | None]:
    """The figures, the options and the parent's name of the only run of this name."""
    from mlflow import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("rstar-math")
    (run,) = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{name}'")
    assert run.info.status == "FINISHED"
    series = {
        key: sorted((m.step, m.value) for m in client.get_metric_history(run.info.run_id, key))
        for key in run.data.metrics
    }
    parent = run.data.tags.get("mlflow.parentRunId")
    return series, run.data.params, parent and client.get_run(parent).info.run_name


def files_with(folder: Path, secret: str) -> list[str]:
    """The files below a folder that contain a text."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if secret.encode() in path.read_bytes()]
