"""The same models in PyTorch, for an interpreter that has torch, NumPy and no JAX.

Reading order: `model` (the transformer), `training` (its step, eager and compiled),
`serve` (a process that takes a step whenever it is asked to).
"""
