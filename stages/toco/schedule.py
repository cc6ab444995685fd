"""The learning rate over a run (METHOD section 7)."""


def learning_rate_factor(
    iteration: int, *, iterations: int, warmup_iterations: int, warmup_ratio: float = 1e-6, power: float = 0.9
) -> float:
    """Factor on the base learning rate: linear warm-up, then polynomial decay over the whole run.

    Args:
        iteration: Counted from 0.
        iterations: Length of the run.
        warmup_iterations: Length of the warm-up, from `warmup_ratio` of the rate upwards; may be 0.
        warmup_ratio: Where the warm-up starts.
        power: Exponent of the decay (1 - iteration / iterations) ** power.
    """
    if iteration < warmup_iterations:
        return 1 - (1 - iteration / warmup_iterations) * (1 - warmup_ratio)
    return float((1 - iteration / iterations) ** power)
