"""What importing the package costs: DAG files import it in every parse."""

import subprocess
import sys


def run(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_importing_brings_in_nothing_heavy() -> None:
    heavy = "airflow anthropic croniter genai_prices jsonschema openai pydantic_ai sqlalchemy"
    code = "import sys, cognitionos_provider.definitions\n"
    code += f"print([name for name in {heavy!r}.split() if name in sys.modules])"
    assert run(code) == "[]"


def test_a_plain_workflow_needs_neither_croniter_nor_jsonschema() -> None:
    code = (
        "import sys; from cognitionos_provider.definitions import Workflow, check_inputs;"
        "w = Workflow(workflow_id='a', version='1.0.0', name='a', steps=[{'step_id': 'a'}]);"
        "check_inputs(w, {}); print('croniter' in sys.modules, 'jsonschema' in sys.modules)"
    )
    assert run(code) == "False False"


def test_500_steps_with_templates_are_checked_in_no_time() -> None:
    code = """
from time import process_time
from cognitionos_provider.definitions import Workflow
steps = [
    {
        "step_id": f"s{n}",
        "depends_on": [f"s{n - 1}"] if n else [],
        "inputs": {"a": [1, {"b": "c"}], "x": f"hi {{{{ inputs.x{n} }}}}"}
        | ({"rows": f"{{{{ steps.s{n - 1}.output.rows[0] }}}}"} if n else {}),
    }
    for n in range(500)
]
begun = process_time()
Workflow(workflow_id="a", version="1.0.0", name="a", steps=steps)
print(process_time() - begun)
"""
    # About 0.08 s on one quiet core; the bound leaves room for a slow and busy machine.
    assert float(run(code)) < 0.5
