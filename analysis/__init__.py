"""Transcripts in; tidy frames, statistics, figures and reports out.

Knows no engine and no model: of the other packages it imports agents.transcript alone.
"""
