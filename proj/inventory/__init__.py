"""Recorded: what the database says about clusters and instances, last known, nothing inferred."""
