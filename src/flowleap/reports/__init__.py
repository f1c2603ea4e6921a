"""Reports: one HTML file that shows what runs are, how good they are and why, from disk and without a network."""

from flowleap.reports.document import page
from flowleap.reports.entry import Entry, Neighbors, unique
from flowleap.reports.folders import gather, write

__all__ = ["Entry", "Neighbors", "gather", "page", "unique", "write"]
