"""What a cluster may cost: an estimate from the configured prices, never a bill."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lensdata.config.emr import EmrConfig, Fleet

HOURS_PER_MONTH = 730


@dataclass(frozen=True)
class Estimate:
    """US dollars."""

    first_per_hour: float
    ceiling_per_hour: float
    ceiling: float
    vcpu_units: int


def estimate(config: EmrConfig) -> Estimate:
    """The cluster as it starts, and as large and old as it may grow; all machines at the on-demand price.

    Of several types a fleet may take, the dearest per unit counts; requests to S3 and data transfer do not.
    """
    fleets = config.fleets
    primary = _per_unit(config, fleets.primary)
    workers = [fleet for fleet in (fleets.core, fleets.task) if fleet]
    first = sum((fleet.on_demand_units + fleet.spot_units) * _per_unit(config, fleet) for fleet in workers)
    most = config.scaling.maximum_units * max(_per_unit(config, fleet) for fleet in workers)
    per_hour = primary + most
    return Estimate(primary + first, per_hour, per_hour * config.max_hours, config.scaling.maximum_units)


def describe(config: EmrConfig) -> list[str]:
    """The estimate in words."""
    found, prices = estimate(config), config.prices
    lines = [
        f"cost    about {found.first_per_hour:.2f} USD per hour at the start, at most {found.ceiling_per_hour:.2f} per hour "
        f"({config.scaling.maximum_units} units), {math.ceil(found.ceiling)} USD in {config.max_hours:g} hours: an estimate",
        f"        on-demand prices of {prices.region}, {prices.date}; check them at {prices.source}",
    ]
    if prices.region != config.region:
        lines.append(f"        these prices are not of {config.region}: fill in prices of your region")
    return lines


def _per_unit(config: EmrConfig, fleet: Fleet) -> float:
    prices = config.prices
    disk = fleet.disk_gb * prices.disk_gb_month / HOURS_PER_MONTH
    return max((prices.hourly[t.type].ec2 + prices.hourly[t.type].emr + disk) / t.units for t in fleet.types)
