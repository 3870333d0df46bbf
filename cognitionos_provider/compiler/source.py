"""The Python file that stands for one workflow version in a DAG folder."""

from __future__ import annotations

import json
from datetime import datetime

__all__ = ["dag_file"]

_FILE = """\
# An Airflow DAG, made from a workflow definition by cognitionos_provider. Changes here are overwritten.
# {marker}
from cognitionos_provider.compiler.dag import dag_from_json

dag = dag_from_json(
    r'''
{definition}
''',
    scheduled={scheduled},
    start_date="{start_date}",
)
"""


def dag_file(definition: str, *, scheduled: bool, start_date: datetime, marker: str) -> str:
    """Return the source of the DAG file of a definition.

    :param definition: the workflow as JSON text.
    :param start_date: when the version was activated, with a time zone.
    :param marker: one line that tells this file from one with other content.
    """
    # Shown as the DAG's code in Airflow's UI, so it is indented. Apostrophes occur in JSON only inside of text,
    # where an escape means the same; without them nothing can end the literal.
    text = json.dumps(json.loads(definition), indent=2, sort_keys=True).replace("'", "\\u0027")
    return _FILE.format(
        marker=marker, definition=text, scheduled=scheduled, start_date=start_date.isoformat()
    )
