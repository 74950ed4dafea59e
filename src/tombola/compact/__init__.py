"""Exact removal of dead units and channels from a traced network, and which channels go together."""

from tombola.compact.channels import ChannelGroups, channel_groups
from tombola.compact.compact import Compacted, CompactReport, compact
from tombola.compact.positions import cut, scatter

__all__ = ["ChannelGroups", "CompactReport", "Compacted", "channel_groups", "compact", "cut", "scatter"]
