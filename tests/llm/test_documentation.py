"""What docs/llm.md says of the policy is what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from cognitionos_provider.llm import POLICY
from cognitionos_provider.llm.policy import Fault

TEXT = (Path(__file__).parents[2] / "docs" / "llm.md").read_text(encoding="utf-8")


def test_the_table_of_the_policy_is_the_code_s_in_its_order() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \| (\w+) \|$", TEXT, re.MULTILINE)
    faults = [name for name in POLICY if name in get_args(Fault)]
    assert rows == [(name, POLICY[name].action.value, POLICY[name].breaker) for name in faults]


def test_its_example_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    compile(
        f"async def example():\n{re.sub('^', '    ', example, flags=re.MULTILINE)}", "docs/llm.md", "exec"
    )
    made: dict[str, object] = {}
    exec(example[: example.index("async with")], made)  # noqa: S102 - our own text
    assert made["connections"]
