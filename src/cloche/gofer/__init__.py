"""The gofer: the only process of a sandbox that can open a path of the host."""
