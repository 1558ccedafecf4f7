"""The command `cloche`: one module for each verb."""
