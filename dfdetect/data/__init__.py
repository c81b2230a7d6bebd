"""Find labelled videos, extract face sets (labelled face crops) from them, and make fakes.

`dfdetect.data` may import the packages that are needed to score a video. It must not import
`dfdetect.training`.
"""
