"""What lives on the host beside a sandbox: records of sandboxes with a name, their logs."""
