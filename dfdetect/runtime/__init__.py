"""Devices, threads, Ray clusters, time budgets and the journal of a run."""
