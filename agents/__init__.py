"""One model in a loop with tools: themes and framings, the parser, the rounds, the record.

Knows no torch and no engine: a rollout yields what it wants done, and a driver does it.
"""
