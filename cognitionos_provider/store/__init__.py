"""What this package keeps in Airflow's metadata database, and how it is asked for it."""
