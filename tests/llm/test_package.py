from __future__ import annotations

import subprocess
import sys

import cognitionos_provider.llm as llm


def test_the_public_names_are_these() -> None:
    assert sorted(llm.__all__) == [
        "Action",
        "Attempt",
        "Budget",
        "Connection",
        "DEFAULT_MODELS",
        "Journal",
        "LLMProvider",
        "LLMRequest",
        "LLMResponse",
        "LLMRouter",
        "Limits",
        "Message",
        "Opened",
        "POLICY",
        "Price",
        "ProviderHealth",
        "Retry",
        "Usage",
        "create_llm_router",
    ]
    assert all(hasattr(llm, name) for name in llm.__all__)


def test_importing_the_package_and_making_a_router_loads_neither_sdk_nor_airflow() -> None:
    program = (
        "import sys, cognitionos_provider.llm as llm\n"
        "llm.create_llm_router('a', 'b')\n"
        "heavy = {'openai', 'anthropic', 'pydantic_ai', 'genai_prices', 'httpx', 'httpx2', 'airflow'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_loading_the_sdks_leaves_the_event_loop_running() -> None:
    program = """
import asyncio, time
from cognitionos_provider.llm import create_llm_router

async def main():
    router = create_llm_router("a", "b")
    begun = last = time.monotonic()
    worst = 0.0
    loading = asyncio.create_task(router.warm_up())
    while not loading.done():
        await asyncio.sleep(0.005)
        now = time.monotonic()
        worst, last = max(worst, now - last), now
    await loading
    print(worst, last - begun)
    await router.aclose()

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    worst, whole = map(float, done.stdout.split())
    # On the loop the longest pause would be nearly the whole time.
    assert worst < whole / 4


def test_the_parse_of_a_dag_file_loads_of_this_package_only_what_a_definition_needs() -> None:
    program = (
        "import sys, cognitionos_provider.compiler.spec\n"
        "print(sorted(name for name in sys.modules if name.startswith('cognitionos_provider.llm.')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['cognitionos_provider.llm.policy', 'cognitionos_provider.llm.request']"
