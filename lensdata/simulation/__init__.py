"""The simulated sky: a DR10-like survey around real lens positions, its catalogue, its images and their server.

Order of reading: `sky` (bricks, projection), `conditions` (how a brick was observed), `populations` and `catalogue`
(rows), `galaxies`, `structure`, `lensing` (what is drawn at a row), `rendering` (pixels), `sweeps`, `bricks` (files),
`survey` (the job that writes all), `cutouts`, `service` and `server` (HTTP).
"""
