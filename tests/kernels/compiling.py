"""Compiles every kernel for a GPU that need not be there, as the functions that launch them would, and tells what of.

Started by `test_compiled.py` without the interpreter; prints a line of JSON per launch.
"""

from __future__ import annotations

import json
import re
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from quorate.kernels import above, blocks, int8, signs, sums, take

TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
}
D = (1 << 20) + 1


def compiled(kernel: Any, *given: Any, grid: object, warmup: bool, **options: Any) -> None:
    """Take the place of a launch."""
    signature, constants, attributes = {}, {}, {}
    for number, (parameter, value) in enumerate(zip(kernel.params, given, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            signature[parameter.name] = "i32" if isinstance(value, int) else "fp32"
        if isinstance(value, torch.Tensor) or (signature[parameter.name] == "i32" and value % 16 == 0):
            attributes[(number,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    for capability in (80, 90):
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        ptx = made.asm["ptx"]
        print(
            json.dumps(
                {
                    "kernel": f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}",
                    "reads": signature[kernel.params[0].name],
                    "bytes": len(made.asm["cubin"]),
                    "wide": len(re.findall(r"(?:ld|st)\.global[.\w:]*\.v4", ptx)),
                    "fused": ptx.count("fma."),
                    "fusion_allowed": made.metadata.enable_fp_fusion,
                }
            )
        )
    if kernel is above._find:
        given[2].fill_(2 * above._ROOM)  # counts: so that what follows is launched as well


def main() -> None:
    JITFunction.run = compiled
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.zeros(D, dtype=dtype)
        sums._partial(x, magnitudes=False)
        sums._partial(x, magnitudes=True)
        above.above(x, 1.0)
        take.take(x, torch.arange(1024))
        for block in (8, 4096):
            blocks.largest_of_blocks(x, block)
    x = torch.zeros(D)
    for block in (8, 4096):
        for module, width, codes in ((int8, 1, D), (signs, 1, D // 8 + 1), (signs, 2, D // 8 + 1)):
            head, numbers = torch.zeros(codes, dtype=torch.uint8), torch.zeros(D // block + 1, width)
            for flag in (False, True):
                module.say(x, head, numbers, block, take=flag)
                module.hear(x, head, numbers, block, 0.5 if flag else None)


if __name__ == "__main__":
    main()
