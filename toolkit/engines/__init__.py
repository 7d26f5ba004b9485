"""Engines: whatever runs a model over contexts. The contract is `base.py`; import an engine from its own file."""
