"""Plugs: sandboxes for the programs that people already use.

One file for each, with the other program's name; each imports that program's package and is imported by nobody else,
and each is an extra of the same name in pyproject.toml.  `tools` is what several of them offer to models.
"""
