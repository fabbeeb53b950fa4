"""How good a finder is: metrics with intervals, calibration, and the floors it must beat."""
