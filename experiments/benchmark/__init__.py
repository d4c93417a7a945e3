"""What the ideas cost in seconds, in ratios: see `python -m experiments.benchmark -h`.

Reading order: `suite` (what every suite is given and gives back), `workload`
(the published systems at other sizes), `random_rows`, `race` (training steps that take
turns), then the suites.
"""
