"""A request for a stamp as data; its hash is the ledger's key (R-C2)."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlencode

from lensdata.config.cutouts import FetchCutoutsConfig, Route
from lensdata.hashing import text_hash


@dataclass(frozen=True)
class CutoutRequest:
    """One stamp: which object, where, from which layer, on which grid, by which route."""

    cutout_id: int
    source_id: int
    kind: str
    ra: float
    dec: float
    layer: str
    bands: str
    size: int
    pixscale_arcsec: float
    route: Route = "service"

    @property
    def hash(self) -> str:
        """Stable over machines and versions: positions enter with 1e-7 degrees (0.4 mas)."""
        fields = (
            self.cutout_id, self.kind, f"{self.ra:.7f}", f"{self.dec:.7f}", self.layer, self.bands, self.size,
            f"{self.pixscale_arcsec:.4f}", self.route,
        )  # fmt: skip
        return text_hash("|".join(map(str, fields)))

    def url(self, address: str) -> str:
        """Address of the request. The layer is always sent: the service's default is ls-dr9."""
        query = {
            "ra": f"{self.ra:.7f}",
            "dec": f"{self.dec:.7f}",
            "layer": self.layer,
            "pixscale": f"{self.pixscale_arcsec:g}",
            "bands": self.bands,
            "size": self.size,
        }
        return f"{address}?{urlencode(query)}"


def make_request(
    cutout_id: int, source_id: int, ra: float, dec: float, config: FetchCutoutsConfig, route: Route
) -> CutoutRequest:
    """The request of one object under a configuration."""
    return CutoutRequest(
        cutout_id,
        source_id,
        config.kind,
        ra,
        dec,
        config.layer,
        config.bands,
        config.size,
        config.pixscale_arcsec,
        route,
    )
