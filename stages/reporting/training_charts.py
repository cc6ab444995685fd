"""The curves of a training, from its metrics.jsonl."""

from pathlib import Path

from stages.reporting import charts
from stages.reporting.charts import Chart
from stages.training.metrics_log import read_metrics

TRAINED_NETWORKS = {"cam": "CAM network", "seg": "student"}  # that a stage trains


def training_charts(stage: str, folder: Path) -> dict[str, Chart]:
    """Return the losses and the scores of a training, as far as there are any.

    Args:
        stage: The stage; one that trains nothing has no curves.
        folder: Its folder.
    """
    found: dict[str, Chart] = {}
    if stage not in TRAINED_NETWORKS:
        return found
    name, lines = TRAINED_NETWORKS[stage], read_metrics(folder / "metrics.jsonl")
    trained = [line for line in lines if line.get("loss") is not None]
    if trained:
        found[f"losses_{stage}"] = Chart(
            f"Losses of the {name}",
            f"The loss is {trained[0]['loss']:.3g} at iteration {trained[0]['iteration']} and "
            f"{trained[-1]['loss']:.3g} at iteration {trained[-1]['iteration']}. Parts that start later add to it. "
            "Each point is the mean over the iterations since the previous point.",
            charts.losses(trained),
        )
    scored = [line for line in lines if any("miou" in key for key in line)]
    if len(scored) > 1:  # one point does not make a curve
        last = ", ".join(
            f"{key.removesuffix('_miou').replace('_', ' ')} {100 * value:.1f} %"
            for key, value in scored[-1].items()
            if "miou" in key and value is not None
        )
        found[f"scores_{stage}"] = Chart(
            f"mIoU of the {name} during training", f"Last: {last}.", charts.measurements(scored)
        )
    return found
