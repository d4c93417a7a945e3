"""UniMoD (2502.06474): its two models, its ablations, and controls of this project.

Every experiment here is full-size and has a tiny form on the digits (`--tiny`).
"""
