"""Network architectures. They read no files, and use no other part of dfdetect but `errors`."""
