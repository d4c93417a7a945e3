"""Attention whose visibility is a window of key positions, not a matrix."""

from pallas_kernels.routed_attention.api import routed_attention

__all__ = ["routed_attention"]
