"""The v3 REST facade: workflows and executions over HTTP, on top of a running Airflow."""
