"""PyTorch's FlexAttention with the same visibility, on the same GPU.

Torch is imported only when this contender's turn comes. Its tensors are copies in its
own order of axes, made before the clock starts; so are its block mask and its compiled
kernels. The forward pass keeps what a backward pass would need: one compilation then
serves both.
"""

import importlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from pallas_kernels.benchmark.contenders import (
    FORWARD,
    FORWARD_BACKWARD,
    Prepared,
    Problem,
)
from pallas_kernels.benchmark.timing import Run


def flex_attention(problem: Problem) -> Prepared:
    """Prepare FlexAttention, compiled, with a block mask from windows and positions.

    Raises:
      NotImplementedError: PyTorch is not there, or has no CUDA device.
    """
    torch = _torch_with_cuda()
    flex = importlib.import_module("torch.nn.attention.flex_attention")
    # Each case is a program of its own; without this the ninth would not be compiled.
    importlib.import_module("torch._dynamo").reset()
    start, end, position = (
        torch.from_numpy(np.array(x)).cuda() for x in problem.visibility
    )

    def sees(row: Any, head: Any, query: Any, key: Any) -> Any:
        del head
        place = position[row, key]
        inside = (start[row, query] <= place) & (place < end[row, query])
        return inside & (place >= 0)

    arrays = (problem.q_BTHE, problem.k_BSGE, problem.v_BSGE, problem.dout_BTHE)
    dtype = getattr(torch, str(problem.q_BTHE.dtype))
    *qkv, dout = (
        torch.from_numpy(np.array(x.astype(jnp.float32).swapaxes(1, 2)))
        .cuda()
        .to(dtype)
        for x in arrays
    )
    for tensor in qkv:
        tensor.requires_grad_()
    case = problem.case
    sizes = (case.num_rows, None, case.num_queries, case.num_keys)
    block_mask = flex.create_block_mask(sees, *sizes, device=start.device)
    compiled = torch.compile(flex.flex_attention, dynamic=False)
    options = {
        "block_mask": block_mask,
        "scale": problem.scale,
        "enable_gqa": case.heads.heads != case.heads.kv_heads,
    }

    def forward() -> Any:
        return compiled(*qkv, **options)

    def forward_backward() -> tuple[Any, ...]:
        out = forward()
        return out, *torch.autograd.grad(out, qkv, dout)

    def wait(result: Any) -> None:
        del result
        torch.cuda.synchronize()

    def read(result: Any) -> tuple[Any, ...]:
        tensors = result if isinstance(result, tuple) else (result,)
        return tuple(x.detach().transpose(1, 2).float().cpu().numpy() for x in tensors)

    passes = {
        FORWARD: Run(forward, wait),
        FORWARD_BACKWARD: Run(forward_backward, wait),
    }
    return Prepared(passes, read)


def _torch_with_cuda() -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise NotImplementedError(
            "PyTorch is not installed; install it with CUDA to compare."
        ) from None
    if not torch.cuda.is_available():
        raise NotImplementedError(
            f"PyTorch {torch.__version__} sees no CUDA device; run this on one."
        )
    return torch
