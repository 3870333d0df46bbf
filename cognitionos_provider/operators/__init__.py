"""Operators: one LLM step as an Airflow task."""
