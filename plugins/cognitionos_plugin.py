"""Links from Airflow's UI to the facade: deploy this file into Airflow's ``plugins`` folder.

Registered here and nowhere else: a plugin that is found twice is an import error.
"""

from __future__ import annotations

from typing import ClassVar

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin


class CognitionOSPlugin(AirflowPlugin):
    """Puts the facade's API documentation into the menu, where ``[cognitionos] facade_url`` says where it is."""

    name = "cognitionos"
    external_views: ClassVar[list[dict[str, str]]] = [
        {
            "name": "CognitionOS API",
            "href": f"{url.rstrip('/')}/docs",
            "destination": "nav",
            "category": "docs",
        }
        for url in [conf.get("cognitionos", "facade_url", fallback="")]
        if url
    ]
