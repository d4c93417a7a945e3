"""What every softmax that meets its keys block by block starts from.

A query keeps the largest score so far, and the sum and weighted values relative to it
(Rabe and Staats, arXiv 2112.05682).
"""

import math

from pallas_kernels.routed_attention.reference import INVISIBLE_SCORE

# The first running maximum: above INVISIBLE_SCORE by so much that an invisible key has
# weight exp(-1.7e38) = 0 from the start, and below every score there can be.
LOWEST_MAXIMUM = INVISIBLE_SCORE / 2

# Chips have an instruction for 2^x, not for e^x: kernels scale scores by this, and
# their weights are powers of 2.
LOG2_E = math.log2(math.e)
