"""Tasks, signals, futexes, timers, descriptors and credentials; knows file systems only as VFS traits."""
