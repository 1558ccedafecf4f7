"""The network process: the only one that makes sockets in a container's network namespace."""
