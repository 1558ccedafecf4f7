"""State on the host beside the sandboxes: records of sandboxes with a name, logs, kept layers, volumes."""
