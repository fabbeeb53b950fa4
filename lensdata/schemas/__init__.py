"""The tables of the platform by room; `lensdata.tables` reads, checks and publishes them."""
