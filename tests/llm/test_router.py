from __future__ import annotations

import asyncio
import json
import logging
from decimal import Decimal
from typing import Any

import pytest

from cognitionos_provider.exceptions import (
    AllModelsFailedError,
    ConfigurationError,
    RequestRejectedError,
    UnknownModelError,
)
from cognitionos_provider.llm import Attempt, LLMRequest, LLMRouter, Retry, create_llm_router
from cognitionos_provider.simulator import SimulatorServer
from tests.llm.conftest import MODELS
