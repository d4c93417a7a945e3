"""What the ideas cost in seconds, in ratios: see `python -m experiments.benchmark -h`.

Reading order: `suite` (what every suite is given and gives back), `random_rows`,
`prepared_step` (a training step, compiled and ready), then the suites.
"""
