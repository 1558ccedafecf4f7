"""Plugs: sandboxes for the programs that people already use.

One file for each, with the other program's name; Each imports that program's package, is imported by no other module
of cloche, and has an extra of the same name in pyproject.toml. `tools` is what several of them offer to models.
"""
