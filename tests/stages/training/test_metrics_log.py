import json
from pathlib import Path

from stages.training.metrics_log import MetricsLog


def test_metrics_log__goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, start=0)
    for iteration in (1, 2, 3):
        log.write(iteration=iteration, loss=0.5)
    with path.open("ab") as file:
        file.write(b'{"iteration": 4, "lo')
    again = MetricsLog(path, start=2)
    again.write(iteration=2, loss=0.5)  # there already
    again.write(iteration=2, miou=0.1)  # of another kind
    again.write(iteration=3, loss=0.25)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"iteration": 1, "loss": 0.5},
        {"iteration": 2, "loss": 0.5},
        {"iteration": 2, "miou": 0.1},
        {"iteration": 3, "loss": 0.25},
    ]


def test_metrics_log__begins_anew_without_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 1, "loss": 1.0}\n5\n\n')
    MetricsLog(path, start=0)
    assert path.read_text() == ""


def test_metrics_log__is_strict_json(tmp_path: Path) -> None:
    MetricsLog(tmp_path / "metrics.jsonl", start=0).write(iteration=1, miou=float("nan"))
    assert (tmp_path / "metrics.jsonl").read_text() == '{"iteration": 1, "miou": null}\n'
