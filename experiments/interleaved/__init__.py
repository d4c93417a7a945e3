"""Documents with any number of pictures, in reading order, packed into rows."""
