"""Find labelled videos, extract face sets (labelled face crops) from them, and make fakes."""
