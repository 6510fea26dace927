"""The GPUs that are known: peak speed and memory. Needs no library."""

from typing import NamedTuple


class GpuModel(NamedTuple):
    """A GPU's peak, in floating-point operations a second, and its memory in bytes."""

    flops: float
    memory: float


GPUS = {
    "H100": GpuModel(989e12, 80e9),
    "H200": GpuModel(989e12, 141e9),
    "A100-80": GpuModel(312e12, 80e9),
    "A100-40": GpuModel(312e12, 40e9),
    "L40S": GpuModel(362e12, 48e9),
}
"""By parts of the driver's name. NVIDIA's data sheets: bfloat16 without sparsity, SXM modules."""


def peak_flops(gpu: str) -> float | None:
    """Return a GPU's peak by the name that its driver gives; None if the GPU is not in `GPUS`."""
    kind = gpu_kind(gpu)
    return GPUS[kind].flops if kind else None


def gpu_kind(gpu: str) -> str | None:
    """Return the name in `GPUS` of a GPU by its driver's name; None where it is not there."""
    return next((name for name in GPUS if all(part in gpu for part in name.split("-"))), None)


def known_gpus(accelerator: str) -> dict[str, GpuModel]:
    """Return the GPUs that Ray's name of an accelerator may mean, such as both of 40 and 80 GB for "A100"."""
    model, _, memory = accelerator.removesuffix("G").partition("-")
    return {
        name: gpu
        for name, gpu in GPUS.items()
        if (name == f"{model}-{memory}" if memory else name.split("-")[0] == model)
    }
