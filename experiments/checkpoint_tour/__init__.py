"""A tour of released models at tiny sizes, from published files and back."""
