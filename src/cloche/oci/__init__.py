"""`cloche-oci`: an OCI runtime, called by engines as they call runc."""
