"""Standard data sets. Each module recognises the layout of one data set, and reads its labels."""
