"""Network architectures.

This package reads no files. From the rest of dfdetect, it imports only `errors`.
"""
