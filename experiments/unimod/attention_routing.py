"""Show-o with UniMoD's capacities filled by attention received: a control.

Tests: whether attention, from which UniMoD reads off redundancy, ranks tokens as well
as a router does. It needs the whole row, so it leaks the future of causal text.
Run: python -m experiments.train unimod/attention_routing --tiny
Expect: the tiny form: loss 12.50 to 2.47 in 200 steps.
"""

from experiments.published import published
from unimod_jax.training import Experiment


def experiment() -> Experiment:
    """The configuration."""
    return published("show_o_512", "attention_routing")
