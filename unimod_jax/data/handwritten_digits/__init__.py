"""The built-in data set: 1,797 real handwritten digits with captions, no download.

A TFDS builder package, named as TFDS wants it. `handwritten_digits_dataset_builder`
needs TFDS; `wordings` and `split` need nothing.
"""

DATA_SET = "handwritten_digits"
"""What the data set is called."""
