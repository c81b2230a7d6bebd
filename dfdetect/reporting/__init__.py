"""Results as pages and figures for people to look at."""
