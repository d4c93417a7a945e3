"""Sections of textbooks in reading order: texts and figures, as many as there are.

The books are OpenStax's, under CC BY 4.0; nothing is downloaded. A folder with
`documents.jsonl` and its pictures becomes a data set whose records keep the order of
each section. `textbook_dataset_builder` needs TFDS; `sections` needs nothing.
"""

DATA_SET = "textbook"
"""What the data set is called."""
