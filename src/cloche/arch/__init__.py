"""What depends on the processor: registers, signal frames, system call numbers."""
