"""Address spaces, their areas, and access to the memory of guests."""
