"""Precision "auto": bfloat16 where the hardware computes it natively, float32 elsewhere.

Without native instructions bfloat16 is emulated, which takes 20 to 60 times as long as float32.
"""

from typing import Any, Literal

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import Accelerator, CUDAAccelerator, MPSAccelerator

AUTO = "auto"
BFLOAT16, FLOAT32 = "bf16-mixed", "32-true"
# torch's names of the CPU instructions: on x86, and on Arm including Apple silicon.
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
_AMPERE = 8  # the first major compute capability of NVIDIA's GPUs with bfloat16

# Weights and images stay in float32, so Lightning's precisions that convert all of the weights,
# such as "bf16-true", are missing.
Precision = Literal["auto", "16-mixed", "bf16-mixed", "32-true", "32", "16", "bf16", 32, 16]


class AutoPrecisionTrainer(Trainer):
    """Lightning's Trainer, with an additional precision "auto".

    Args:
        accelerator: See Lightning's `Trainer`.
        precision: See Lightning's `Trainer`; "auto" is resolved by `resolve_precision`.
        **kwargs: See Lightning's `Trainer`.
    """

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        precision: Precision | None = None,
        **kwargs: Any,
    ) -> None:
        resolved: Any = resolve_precision(precision, accelerator)
        super().__init__(accelerator=accelerator, precision=resolved, **kwargs)


def resolve_precision(
    precision: str | int | None, accelerator: str | Accelerator = "auto"
) -> str | int | None:
    """Resolve the precision "auto" for this machine.

    Args:
        precision: The requested precision.
        accelerator: The Trainer's accelerator.

    Returns:
        "bf16-mixed" or "32-true" for "auto"; other values unchanged.
    """
    if precision != AUTO:
        return precision
    return BFLOAT16 if has_bfloat16(_device_type(accelerator)) else FLOAT32


def has_bfloat16(device_type: str) -> bool:
    """Return whether a device type of this machine, such as "cpu", supports bfloat16 natively."""
    if device_type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in _INSTRUCTIONS)
    if device_type == "cuda":
        gpus = range(torch.cuda.device_count())
        return all(torch.cuda.get_device_capability(gpu)[0] >= _AMPERE for gpu in gpus)
    return device_type == "mps" and torch.backends.mps.is_macos_or_newer(14, 0)


def describe_precision(precision: str, device_type: str) -> str:
    """Describe a precision on a device type, for the plan of a run."""
    where = "the CPU" if device_type == "cpu" else device_type
    native = has_bfloat16(device_type)
    if precision.startswith("bf16"):
        if native:
            return f"{precision}: {where} computes bfloat16 natively"
        return (
            f"{precision}, though {where} only emulates bfloat16, which is many times slower than"
            " float32: trainer.precision auto avoids it"
        )
    if precision == FLOAT32:
        return f"{precision}: float32" + ("" if native else f"; {where} has no native bfloat16")
    return precision


def _device_type(accelerator: str | Accelerator) -> str:
    """Return torch's device type of the Trainer's accelerator."""
    if isinstance(accelerator, Accelerator):
        name = type(accelerator).__name__.removesuffix("Accelerator").lower()
        return name if name in ("cuda", "mps") else "cpu"
    if accelerator in ("auto", "gpu"):
        if CUDAAccelerator.is_available():
            return "cuda"
        return "mps" if MPSAccelerator.is_available() else "cpu"
    return accelerator
