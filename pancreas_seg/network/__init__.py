"""The network, its loss, and its weights."""
