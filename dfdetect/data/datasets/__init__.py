"""Standard data sets; each module recognises the layout of one data set and reads it."""
