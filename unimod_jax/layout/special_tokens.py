"""The ids every vocabulary starts with, so that all rooms agree on them."""

PADDING = 0
"""Fills empty slots, slots still to be generated, and slots of continuous patches."""
BEGIN = 1
END = 2
BEGIN_IMAGE = 3
END_IMAGE = 4
MASK = 5
"""A hidden image code (Show-o's mask token)."""

BEGIN_SPEECH = 6
END_SPEECH = 7
END_OF_LINE = 8
"""Ends each line of an image's codes (Emu3, arXiv 2409.18869)."""

NUM_SPECIAL = 12
"""Reserved ids; a vocabulary's own ids follow them."""
