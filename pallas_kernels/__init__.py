"""Accelerator operations of unified transformers; this package knows jax only.

One folder per operation, with the same file names in each: `api.py` chooses and checks,
`reference.py` is the definition, `xla_chunked.py` runs everywhere in linear memory.
`inverse_gather` moves tokens by a map whose inverse is known; it is one file, for XLA's
gather is all it needs.
"""

from pallas_kernels.routed_attention import AttentionDropout, routed_attention

__all__ = ["AttentionDropout", "routed_attention"]
