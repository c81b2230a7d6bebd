"""Network architectures. This package reads no files, and of dfdetect it uses only `errors`."""
