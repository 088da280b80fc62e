"""One store on disk: header, clips, shards, receipts, claims, and `FeatureStore`, its door."""

from egoctl.pipeline.store.feature_store import FeatureStore

__all__ = ["FeatureStore"]
