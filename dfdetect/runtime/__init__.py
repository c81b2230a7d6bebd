"""How a run computes: devices, threads, Ray clusters, its time budget and its journal."""
