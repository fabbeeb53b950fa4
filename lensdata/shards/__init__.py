"""Stamps on disk: Parquet shards, NPZ objects and the manifests that point into them (R-C3, R-S7)."""

from lensdata.shards.layout import SURVEY_LAYOUT, ImageLayout
from lensdata.shards.manifests import Manifest, read_manifest, require_classes
from lensdata.shards.reader import StampReader, open_shard, read_stamps
from lensdata.shards.writer import ShardInfo, ShardWriter

__all__ = [
    "SURVEY_LAYOUT",
    "ImageLayout",
    "Manifest",
    "ShardInfo",
    "ShardWriter",
    "StampReader",
    "open_shard",
    "read_manifest",
    "read_stamps",
    "require_classes",
]
