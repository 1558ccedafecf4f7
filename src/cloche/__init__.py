"""cloche: an application kernel that runs untrusted programs under a Linux interface of its own."""

__version__ = "0.1.0"
