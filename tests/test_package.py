"""What a user installs: the wheel, and what Airflow makes of it."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager

import cognitionos_provider
from cognitionos_provider.get_provider_info import get_provider_info
from cognitionos_provider.simulator import SimulatorServer

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(folder),
    ]
    subprocess.run([*pip, str(REPOSITORY)], check=True, capture_output=True, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel):
    source = REPOSITORY / "cognitionos_provider"
    wanted = {
        path.relative_to(REPOSITORY).as_posix()
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == wanted


def test_an_airflow_with_the_wheel_lists_the_provider(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site")]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    environment = {**os.environ, "AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "site")}
    listed = subprocess.run(
        [sys.executable, "-m", "airflow", "providers", "list", "--output", "json"],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    ).stdout
    versions = {row["package_name"]: row["version"] for row in json.loads(listed[listed.index("[") :])}
    assert versions["cognitionos-provider"] == cognitionos_provider.__version__


def test_the_provider_info_satisfies_airflows_schema_and_names_what_exists():
    import airflow

    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    info = get_provider_info()
    jsonschema.validate(info, schema)
    for kind in ("operators", "hooks", "triggers", "bundles"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                assert importlib.import_module(module)
    assert ProvidersManager().db_managers == info["db-managers"]
    assert "cognitionos_llm" in ProvidersManager().hooks


def test_airflow_draws_the_connection_form_without_loading_the_hook():
    code = (
        "import json, sys\n"
        "from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService\n"
        "(form,) = [m for m in HookMetaService.hook_meta_data() if m.connection_type == 'cognitionos_llm']\n"
        "print(json.dumps([form.model_dump(), 'cognitionos_provider.hooks.llm' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    form, loaded = json.loads(done.stdout.splitlines()[-1])
    assert not loaded
    assert form["hook_name"] == "CognitionOS LLM"
    assert [form["standard_fields"][name]["title"] for name in ("host", "password")] == [
        "Base URL",
        "API key",
    ]
    assert all(form["standard_fields"][name]["hidden"] for name in ("url_schema", "login", "port"))
    assert form["extra_fields"]["provider"]["value"] == "openai"


def test_the_versions_agree():
    assert importlib.metadata.version("cognitionos-provider") == cognitionos_provider.__version__


async def test_the_readmes_python_example_runs(capsys):
    readme = (REPOSITORY / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    with SimulatorServer() as sim:
        addresses = (
            f", openai_base_url={sim.openai_base_url!r}, anthropic_base_url={sim.anthropic_base_url!r})"
        )
        example = example.replace('"sk-ant-...")', f'"sk-ant-..."{addresses}')
        body = textwrap.indent(f"{example}\nawait router.aclose()", "    ")
        namespace = {}
        exec(f"async def run():\n{body}", namespace)  # noqa: S102 - what the README tells users to run
        await namespace["run"]()
    assert capsys.readouterr().out.startswith("[simulated openai:gpt-4]")
