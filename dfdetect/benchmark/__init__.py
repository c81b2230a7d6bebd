"""How fast a detector is here, and what that means for many videos on many machines."""
