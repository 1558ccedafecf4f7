"""Egress: the only process of a sandbox that makes connections to others."""
