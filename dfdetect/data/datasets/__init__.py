"""Standard data sets, each recognised by its own layout and read by a module of its own."""
