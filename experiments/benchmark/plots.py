"""The picture of a results file: each figure that has a goal, as a share of it."""

from collections.abc import Mapping
from pathlib import Path

from experiments.benchmark.goals import GOALS


def plot_figures(figures: Mapping[str, float], title: str, path: Path) -> None:
    """Draws a bar per figure with a goal, and the goal as a mark on its row.

    Args:
      figures: dotted name -> number.
      title: above the picture, such as device and date.
      path: of the image; its suffix says the format, such as .png or .svg.

    Raises:
      ValueError: if no figure has a goal, so there is nothing to draw.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in GOALS if name in figures]
    if not names:
        raise ValueError(
            f"none of the figures {sorted(figures)} has a goal; nothing to draw."
        )
    heights = range(len(names))
    shares = [figures[name] / GOALS[name].bound for name in names]
    colours = [
        "#4c8f6b" if GOALS[name].is_met(figures[name]) else "#c2603f" for name in names
    ]
    figure, axes = pyplot.subplots(
        figsize=(9, 0.4 * len(names) + 1.2), layout="constrained"
    )
    axes.barh(heights, shares, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_yticks(heights, [f"{name}  ({GOALS[name]})" for name in names])
    axes.invert_yaxis()
    for height, name, share in zip(heights, names, shares, strict=True):
        axes.text(share, height, f" {figures[name]:.3g}", va="center", fontsize=8)
    axes.set_xlabel("figure over its goal")
    axes.set_title(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
