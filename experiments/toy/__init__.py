"""Toys: a few minutes on a laptop, on real 8 x 8 scans of handwritten digits."""
