"""Renderings of results: tables and sentences for people, JSON and CSV for programs, Markdown for both."""
