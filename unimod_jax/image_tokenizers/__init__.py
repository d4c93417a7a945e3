"""Learned image tokenizers of the released models: pixels to codes, codes to pixels."""
