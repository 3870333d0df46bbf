"""Hooks: where operators and triggers get their LLM router from."""
