"""Mounts, inodes, path walk, open files, and the bases that file systems derive from."""
