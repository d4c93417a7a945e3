"""What is said of files that cannot be used."""


class ConversionError(ValueError):
    """One sentence: the file and tensor, what is wrong with it, and what to do."""
