"""The table of system calls and their handlers: decode, check, act."""
