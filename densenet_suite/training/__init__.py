"""Runs: folders, fitting, and what watches a fit."""
