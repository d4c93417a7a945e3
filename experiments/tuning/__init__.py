"""Released models taken further: `experiments.train tuning/NAME --start-from DIR`.

DIR is what `experiments.convert` wrote. Architecture, vocabulary and image codes come
from there, and towers, routing, tasks and recipe from the file here.
"""
