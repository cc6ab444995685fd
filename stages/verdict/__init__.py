"""Judge the masks of a run class by class: good, weak or failed, why, and what to do about it."""
