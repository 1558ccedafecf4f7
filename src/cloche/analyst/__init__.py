"""The analyst: finds system calls in ELF files and makes patched copies of their pages."""
