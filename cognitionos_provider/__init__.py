"""CognitionOS for Airflow: workflows of LLM steps, posted as data and run as Airflow DAGs."""

# Airflow imports this package while it is itself half imported (provider discovery), so nothing may be
# imported here.
__version__ = "3.0.0"
