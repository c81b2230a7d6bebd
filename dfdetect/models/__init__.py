"""Network architectures. This package reads no files, and imports only `errors` of dfdetect."""
