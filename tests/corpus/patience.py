"""Ray on a machine that is busy with other things: a raylet that doesn't give up on its agents.

A raylet ends if the agents beside it have not named their ports within 15 seconds, which nobody can
change. Importing takes them longer where many processes share a core. Nothing that is tested here
needs the agents, so their ports are written down before they start.
"""

import inspect
import os
import socket
from pathlib import Path
from typing import Any

import ray._private.services as services

AGENT_PORTS = (
    "metrics_agent_port",
    "metrics_export_port",
    "runtime_env_agent_port",
    "dashboard_agent_listen_port",
)
SETTINGS = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_prestart_worker_first_driver": "0",  # start no workers that nobody asked for
}
_start_raylet = services.start_raylet


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start_raylet(*args: Any, **options: Any) -> Any:
    call = inspect.signature(_start_raylet).bind(*args, **options)
    call.apply_defaults()
    for name in AGENT_PORTS:
        port = call.arguments[name] = call.arguments.get(name) or free_port()
        place = Path(call.arguments["session_dir"], f"{name}_{call.arguments['node_id']}")
        place.write_text(str(port))
    return _start_raylet(*call.args, **call.kwargs)


def be_patient() -> None:
    """Let every raylet that this process starts wait for as long as it takes."""
    os.environ.update(SETTINGS)
    services.start_raylet = start_raylet
