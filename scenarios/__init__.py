"""The scripts that people run, and the command line."""
