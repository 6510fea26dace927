"""Check that a process that Ray gave a GPU can use it. Does not import Ray."""

import socket

from uniner.errors import UserError


def require_gpu() -> None:
    """Check that torch sees a GPU. Call it before anything is loaded.

    Ray counts a machine's GPUs by its instance type, even where the container cannot see them.

    Raises:
        UserError: torch sees no GPU; the message says what to check.
    """
    import torch

    if torch.cuda.is_available():
        return
    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
    raise UserError(
        f"Ray gave this process a GPU on {socket.gethostname()}, but torch {torch.__version__} ({built}) "
        "sees none; run `nvidia-smi` on the machine (its driver must be 580 or newer) and in the container "
        "(its runtime must be nvidia, and its image must set NVIDIA_VISIBLE_DEVICES=all and "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility, as infra/Dockerfile does)"
    )
