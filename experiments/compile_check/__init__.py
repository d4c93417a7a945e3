"""Compiles a training step for chips that are not there, and says whether it fits.

Reading order: `plan` (mesh and parts, where the user names none), `check` (the compiled
step, measured), `remedies` (what would make it fit), `report`.
"""
