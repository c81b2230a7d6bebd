"""What a run over many videos uses: devices, engines, threads, clusters, time budget, journal."""
