"""The learning rate over a run (METHOD section 7)."""


def learning_rate_factor(
    iteration: int, *, iterations: int, warmup_iterations: int, warmup_ratio: float = 1e-6, power: float = 0.9
) -> float:
    """Compute the factor on the base learning rate: linear warm-up, then polynomial decay.

        t < t_warmup     1 - (1 - t / t_warmup) (1 - warmup_ratio)        from warmup_ratio to 1
        t >= t_warmup    (1 - t / T)^power                                from just below 1 to 0

    The decay counts t from the start of the run, so the factor drops a little where the warm-up ends.

    Args:
        iteration: t, counted from 0.
        iterations: T, the length of the run.
        warmup_iterations: t_warmup, the length of the warm-up; may be 0.
        warmup_ratio: Factor at the start of the warm-up (1e-6: section 7).
        power: Exponent of the decay (0.9: section 7).
    """
    if iteration < warmup_iterations:
        return 1 - (1 - iteration / warmup_iterations) * (1 - warmup_ratio)
    return float((1 - iteration / iterations) ** power)
