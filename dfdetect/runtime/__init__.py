"""What a run uses: devices, threads, Ray clusters, a time budget, and a journal of its results."""
