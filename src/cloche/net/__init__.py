"""Sockets: unix, loopback, netlink, and the client of the egress server."""
