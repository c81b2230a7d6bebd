"""What a run over many videos uses: devices, threads, Ray clusters, a time budget, a journal."""
