"""Codecs of the messages that the processes of a sandbox exchange."""
