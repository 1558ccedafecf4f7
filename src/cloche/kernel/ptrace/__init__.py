"""ptrace(2) for guests: stops, tracers, registers, memory that must be forced."""
