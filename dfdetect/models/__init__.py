"""Network architectures. The package reads no files and, of dfdetect, imports only `errors`."""
