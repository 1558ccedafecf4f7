"""x86-64: registers, signal frames, system call numbers."""
