"""From a YAML file and overrides to a checked, frozen config; every problem named with its place, all at once."""

from segtrain.config.component import Component, Share
from segtrain.config.reader import Source, load
from segtrain.config.schema import Config

__all__ = ["Component", "Config", "Share", "Source", "load"]
