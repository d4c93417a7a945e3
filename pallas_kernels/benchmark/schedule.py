"""How many blocks a kernel visits, against how many it must.

`block_map` decides from smallest and largest positions; the T x S matrix, built here
one row at a time, says what holds a visible pair at all. The ratio of the two is the
price of not storing a matrix, and no accelerator is needed to know it.
"""

from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from pallas_kernels.benchmark.visibility_cases import VisibilityCase
from pallas_kernels.routed_attention.block_bounds import block_map

BLOCKS = (64, 128)


def schedule_report(
    cases: Iterable[VisibilityCase], blocks: tuple[int, ...] = BLOCKS
) -> list[dict[str, Any]]:
    """Count the blocks of each case and block size; counts are over all rows.

    Returns:
      One flat dictionary per case and block: `visited` (what the bounds let through),
      `holding` (blocks with a visible pair), `whole` (run without a mask), `blocks` (of
      the whole T x S), `visible_pairs`, and the ratios `visited_over_holding`,
      `visited_area_over_visible` and `holding_area_over_visible`.
    """
    return [
        _counts(case, visible, block)
        for case in cases
        for visible in [[case.visible_TS(row) for row in range(case.num_rows)]]
        for block in blocks
    ]


def schedule_figures(results: list[dict[str, Any]]) -> dict[str, float]:
    """Name the ratios, as in `schedule.causal_4096.block_64.visited_over_holding`."""
    return {
        f"schedule.{result['case']}.block_{result['block']}.{ratio}": result[ratio]
        for result in results
        for ratio in ("visited_over_holding", "visited_area_over_visible")
    }


def schedule_table(results: list[dict[str, Any]]) -> str:
    """Lay the report out for reading."""
    lines = [
        f"{'layout':<48}{'T':>6}{'block':>6}{'of':>8}{'visited':>9}{'holding':>9}"
        f"{'v/h':>7}{'whole':>8}{'Mpairs':>8}{'area':>6}{'exact':>7}"
    ]
    for result in results:
        lines.append(
            f"{result['case']:<48}{result['num_queries']:>6}{result['block']:>6}"
            f"{result['blocks']:>8}{result['visited']:>9}{result['holding']:>9}"
            f"{result['visited_over_holding']:>7.3f}{result['whole']:>8}"
            f"{result['visible_pairs'] / 1e6:>8.2f}"
            f"{result['visited_area_over_visible']:>6.2f}"
            f"{result['holding_area_over_visible']:>7.2f}"
        )
    lines.append(
        "area: visited area over visible pairs; exact: the same if only blocks with a "
        "visible pair were visited."
    )
    return "\n".join(lines)


def _counts(
    case: VisibilityCase, visible: list[np.ndarray], block: int
) -> dict[str, Any]:
    pairs = block_map(
        *(jnp.asarray(x) for x in case.visibility), query_block=block, key_block=block
    )
    visited = int(np.count_nonzero(pairs.visible_BNM))
    holding = sum(_blocks_that_hold(matrix, block) for matrix in visible)
    num_pairs = sum(int(np.count_nonzero(matrix)) for matrix in visible)
    return {
        "case": case.name,
        "order": case.order,
        "block": block,
        "num_rows": case.num_rows,
        "num_queries": case.num_queries,
        "num_keys": case.num_keys,
        "blocks": int(pairs.visible_BNM.size),
        "visited": visited,
        "holding": holding,
        "whole": int(np.count_nonzero(pairs.whole_BNM)),
        "visible_pairs": num_pairs,
        "visited_over_holding": visited / holding,
        "visited_area_over_visible": visited * block**2 / num_pairs,
        "holding_area_over_visible": holding * block**2 / num_pairs,
    }


def _blocks_that_hold(visible_TS: np.ndarray, block: int) -> int:
    padding = [(0, -size % block) for size in visible_TS.shape]
    padded = np.pad(visible_TS, padding)
    num_queries, num_keys = padded.shape
    split = padded.reshape(num_queries // block, block, num_keys // block, block)
    return int(np.count_nonzero(split.any(axis=(1, 3))))
