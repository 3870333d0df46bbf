"""Triggers: one LLM step, run in the triggerer."""
