"""Attention whose visibility is a window of key positions, not a matrix."""

from pallas_kernels.routed_attention.api import routed_attention
from pallas_kernels.routed_attention.dropout import AttentionDropout

__all__ = ["AttentionDropout", "routed_attention"]
