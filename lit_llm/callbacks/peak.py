"""How many floating point operations a second a device can do at most in matrix products."""

from __future__ import annotations

import time

import torch

# Dense bf16 tensor-core peaks from NVIDIA's data sheets, in 1e12 operations a second; the first name that fits counts.
_BF16_PEAKS = {
    "GB200": 2500, "B200": 2250, "H200": 989, "GH200": 989, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989,
    "H800": 989, "A100": 312, "A800": 312, "L40S": 362, "L40": 181, "L4": 121, "A40": 150, "A10G": 70, "A10": 125,
    "RTX 4090": 165, "RTX 3090": 71, "A6000": 155, "T4": 65, "V100": 125,
}  # fmt: skip

ENOUGH = 1.0  # seconds of measuring, where the type is slow on this processor (bfloat16 without units for it)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second: from the table for a known GPU in half precision, else measured with a large matmul."""
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, tera in _BF16_PEAKS.items():
            if known in name:
                return tera * 1e12
    return measured_matmul_flops(device, dtype)


def measured_matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The best of several square matmuls: other work on the machine only ever makes one slower."""
    size, rounds = (8192, 10) if device.type == "cuda" else (1024, 8)
    a = torch.ones(size, size, device=device, dtype=dtype)
    b = torch.ones(size, size, device=device, dtype=dtype)
    best, begun = float("inf"), time.perf_counter()
    for _ in range(rounds):
        start = time.perf_counter()
        if start - begun > ENOUGH:
            break
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
