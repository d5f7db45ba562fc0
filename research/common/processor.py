"""Which processor computes: results differ in their last digits from processor to processor, so runs record
it.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")  # instructions that make matrix products fast


def name_of(device: torch.device) -> str:
    """The processor behind a device, such as "AMD EPYC with avx512_bf16" or "NVIDIA H200"."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_name(device)
    best = instructions()
    return f"{cpu()} with {best}" if best else cpu()


def cpu() -> str:
    """The CPU's name, if the system reveals it."""
    return told_of_cpu("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """The best of INSTRUCTIONS that the CPU has; "" if the system does not say.

    Virtual machines may all call their processors "AMD EPYC" although these differ in their instructions.
    """
    has = told_of_cpu("flags").split()
    return next((one for one in INSTRUCTIONS if one in has), "")


def told_of_cpu(what: str) -> str:
    """What Linux says about the first CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(what)), "")
