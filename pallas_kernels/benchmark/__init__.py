"""What the operations of this package cost, on real layouts and this machine.

`python -m pallas_kernels.benchmark --schedule` counts the blocks that a kernel visits;
`--suite attention` times implementations against cuDNN, XLA and FlexAttention.
"""
