"""The signing keys of a store, which every replica shares: sealed, authenticated, and guarded."""
