"""One experiment at many settings: `python -m experiments.sweep EXPERIMENT --vary ...`.

Reading order: `plan` (which points), `measurement` (what is measured at a point and
what came of it), `compiled_points` and `trained_points` (the two measurements there
are), `processes` (several at once, none stops the rest), `directory` (what is kept, so
that a sweep resumes), then `tables`, `charts` and `report`.
"""
