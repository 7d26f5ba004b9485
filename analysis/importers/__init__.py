"""Transcripts of others in: a folder of their files becomes the same frames as a run of our own, as Parquet.

Knows no claim and no statistic. Each importer is one file here that reads one kind of file; store.py writes.
"""
