"""The precision in which a loss is computed; weights, gradients and moments are float32 in any case."""

from contextlib import AbstractContextManager, nullcontext

import torch


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return the context in which to compute a loss in `precision`: float32, bfloat16, or auto."""
    is_bfloat16 = precision == "bfloat16" or (precision == "auto" and bfloat16_is_faster(device))
    return torch.autocast(device.type, torch.bfloat16) if is_bfloat16 else nullcontext()


def bfloat16_is_faster(device: torch.device) -> bool:
    """Say whether `device` multiplies bfloat16 in hardware: AVX512-BF16 or AMX, or a GPU since Ampere.

    On a CPU whose instructions are kept to AVX2 (the portable mode) it does not.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    has_bfloat16 = torch.cpu.get_capabilities().get("avx512_bf16", False)
    return bool(has_bfloat16) and torch.backends.cpu.get_cpu_capability() == "AVX512"
