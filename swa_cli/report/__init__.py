"""Renderings of results: a table for people, JSON for programs."""
