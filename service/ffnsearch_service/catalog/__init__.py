"""Which snapshots are open, under which names, and for how long: names, aliases, leases, and what a restart finds."""

from ffnsearch_service.catalog.catalog import Catalog
from ffnsearch_service.catalog.gate import FidelityGate
from ffnsearch_service.catalog.views import AliasView, SnapshotView

__all__ = ["AliasView", "Catalog", "FidelityGate", "SnapshotView"]
