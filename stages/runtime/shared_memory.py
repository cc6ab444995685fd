"""The memory that the processes of a data loader share: what to do if it is too small. Without torch."""

import errno
import re

from data.errors import UserError

SHARED_MEMORY_FULL = (
    "shared memory (/dev/shm) is too small for the processes that load images: use --workers 0, or give the container "
    "more, for example docker run --shm-size 8g"
)
_FILES = re.compile(r"/dev/shm/(torch_|sem\.)")  # of torch and of multiprocessing, beside files of the user
_TEXTS = ("</torch_", "(shm)", "out of shared memory", "Bus error")  # in torch's errors


def is_shared_memory_full(error: Exception) -> bool:
    """Whether an error says that shared memory is full. Data sets and runs of users may be in /dev/shm as well."""
    if isinstance(error, UserError):
        return False
    if isinstance(error, OSError) and error.filename is not None:
        return error.errno == errno.ENOSPC and _FILES.match(str(error.filename)) is not None
    return any(text in str(error) for text in _TEXTS)
