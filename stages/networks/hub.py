"""Downloads from the Hugging Face hub that fail at once and in one line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

SECONDS = 5.0  # to wait for an answer of the hub


@contextmanager
def failing_at_once() -> Iterator[None]:
    """Let downloads in this context use only the hub's cache if the hub does not answer.

    Otherwise huggingface_hub repeats each request for half a minute and prints a line for each attempt.

    Raises:
        OSError: A file is not in the cache, and the hub cannot be used. Says why.
    """
    from huggingface_hub import constants

    problem, before = hub_problem(), constants.HF_HUB_OFFLINE
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    constants.HF_HUB_OFFLINE = before or bool(problem)
    try:
        yield
    except OSError as error:
        if problem:
            raise OSError(problem) from error
        raise
    finally:
        constants.HF_HUB_OFFLINE = before
        logger.setLevel(level)


def hub_problem() -> str:
    """Return why the hub cannot be used; empty if it answers."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_session().head(constants.ENDPOINT, timeout=SECONDS)
    except Exception as error:  # of the HTTP library, which differs between versions of the hub's client
        return f"{constants.ENDPOINT} cannot be reached: {error or type(error).__name__}"
    return ""
