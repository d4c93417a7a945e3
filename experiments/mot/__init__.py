"""Mixture-of-Transformers (2411.04996): its settings, baselines and ablations.

Every experiment here is full-size and has a tiny form on the digits (`--tiny`).
"""
