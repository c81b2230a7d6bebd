"""Network architectures. They read no files and use nothing else of this package but `errors`."""
