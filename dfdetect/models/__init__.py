"""Network architectures. This package reads no files. Of dfdetect, it imports only `errors`."""
