"""What computes, and for how long: devices, threads, a Ray cluster, time budget and journal."""
