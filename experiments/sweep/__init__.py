"""One experiment at many settings: `python -m experiments.sweep EXPERIMENT --vary ...`.

Reading order: `points` (which there are), `processes` (several at once, none stops the
rest), `measurement` (what came of one), `results` (what is kept, so that a sweep
resumes, and the page with a chart per figure).
"""
