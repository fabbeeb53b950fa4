"""Maps of completeness say nothing of cells that nobody measured (R-E7)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
from matplotlib.contour import ContourSet

from lensdata.report.completeness_figures import completeness_map


def lines_of(completeness: list[list[float]]) -> list[ContourSet]:
    """The 50% lines of a map; rows of ``completeness`` are Einstein radii, NaN is a cell without injections."""
    values = np.asarray(completeness)
    rows = pd.DataFrame(list(product((1.0, 1.5, 2.0), (10.0, 20.0, 40.0))), columns=["theta_e", "arc_snr"])
    rows = rows.assign(completeness=values.ravel(), n=np.where(np.isnan(values), 0, 200).ravel())
    drawn = completeness_map(rows, "arc_snr", "a map").axes[0].collections
    return [one for one in drawn if isinstance(one, ContourSet)]


def test_the_line_of_half_is_drawn_where_completeness_crosses_it() -> None:
    (line,) = lines_of([[0.1, 0.4, 0.8]] * 3)
    crossing = np.concatenate([path.vertices for path in line.get_paths()])
    assert crossing[:, 1] == pytest.approx(1.75)  # cells of 0.4 and 0.8 have their middles at 1.5 and 2.5


def test_no_line_is_drawn_between_cells_that_were_measured_and_cells_that_were_not() -> None:
    assert lines_of([[0.8, 0.9, 0.9], [0.8, 0.9, 0.9], [np.nan] * 3]) == []
    assert lines_of([[np.nan] * 3] * 3) == []
