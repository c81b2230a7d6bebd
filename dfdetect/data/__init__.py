"""Find labelled videos, extract face sets (labelled face crops) from them, and make fakes.

`dfdetect.data` may import the subpackages of dfdetect that score videos, but must not import
`dfdetect.training`.
"""
