import errno

import pytest

from data.errors import ArtifactError, DataError
from stages.runtime.shared_memory import is_shared_memory_full


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2>: No space left on device (28)"),
        RuntimeError("unable to open shared memory object </torch_1_2> in read-write mode"),
        RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error."),
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/torch_12_34"),
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/sem.x"),
    ],
)
def test_is_shared_memory_full(error: Exception) -> None:
    assert is_shared_memory_full(error)


@pytest.mark.parametrize(
    "error",
    [
        DataError("/dev/shm/rv holds no images"),
        ArtifactError("/dev/shm/run/cam exists: use --resume"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "/dev/shm/photos/a.jpg"),
        OSError(errno.ENOSPC, "No space left on device", "/dev/shm/run/cam/checkpoint.pt"),
        PermissionError(errno.EACCES, "Permission denied", "/dev/shm/torch_12_34"),
        ValueError("cannot identify image file '/dev/shm/photos/a.jpg'"),
        RuntimeError("out of resource: shared memory, Required: 147456, Hardware limit: 101376"),  # of a GPU
    ],
)
def test_is_shared_memory_full__other_errors(error: Exception) -> None:
    assert not is_shared_memory_full(error)
