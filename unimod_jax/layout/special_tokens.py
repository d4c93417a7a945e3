"""The ids every vocabulary starts with, so that all rooms agree on them."""

PADDING = 0
"""Fills empty slots, slots still to be generated, and slots of continuous patches."""
BEGIN = 1
END = 2
BEGIN_IMAGE = 3
END_IMAGE = 4
MASK = 5
"""A hidden image code (Show-o's mask token)."""

NUM_SPECIAL = 8
"""Reserved ids; a vocabulary's own ids follow them."""
