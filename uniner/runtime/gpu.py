"""Check that a process that Ray gave a GPU can use it. Does not import Ray."""

import logging
import os
import socket

from uniner.errors import UserError

STAND_IN = "UNINER_CPU_IN_PLACE_OF_GPU"
"""Environment variable of a machine that declares a GPU to Ray and has none, to rehearse a cluster
(infra/rehearsal): its engines compute on its CPUs. No other machine may have it."""

log = logging.getLogger(__name__)


def cpu_in_place_of_gpu() -> bool:
    """Tell whether this machine's GPUs are only declared to Ray, to rehearse, and engines compute on CPUs."""
    return os.environ.get(STAND_IN) == "1"


def require_gpu() -> None:
    """Check that torch sees a GPU. Call it before anything is loaded.

    Ray counts a machine's GPUs by its instance type, even where the container cannot see them.

    Raises:
        UserError: torch sees no GPU; the message says what to check.
    """
    import torch

    if torch.cuda.is_available():
        return
    if cpu_in_place_of_gpu():
        log.warning(f"{socket.gethostname()}: CPUs take the place of the GPU, because {STAND_IN}=1 is set")
        return
    raise UserError(
        f"Ray gave this process a GPU on {socket.gethostname()}, but {_torch()} "
        "sees none; run `nvidia-smi` on the machine (its driver must be 580 or newer) and in the container "
        "(its runtime must be nvidia, and its image must set NVIDIA_VISIBLE_DEVICES=all and "
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility, as infra/Dockerfile does)"
    )


def require_gpus_here(gpus: float) -> None:
    """Check that this process can use as many GPUs as engine.gpus says, for work without Ray.

    Raises:
        UserError: torch sees fewer.
    """
    import torch

    if not gpus or cpu_in_place_of_gpu():
        return
    seen = torch.cuda.device_count()
    if seen < gpus:
        raise UserError(
            f"engine.gpus = {gpus:g}, but {_torch()} sees {seen or 'no'} {'GPU' if seen < 2 else 'GPUs'} on "
            f"this machine; set engine.gpus={seen}{'' if seen else ' to run on CPUs'}"
        )


def _torch() -> str:
    import torch

    built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs alone"
    return f"torch {torch.__version__} ({built})"
