"""What a worker process does: it reads tasks from a pipe, does them, and writes what came of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import warnings
from multiprocessing import connection, parent_process
from multiprocessing.connection import Connection

from parity.workers import state
from parity.workers.messages import call

DONE, SAID = "done", "said"


def serve(pipe: Connection, quiet: bool) -> None:
    """Serve one parent until it closes the pipe or ends. Ctrl-C is the parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if quiet:
        logging.disable(logging.WARNING)
        warnings.simplefilter("ignore")
    with state.process_state(lambda what: _send(pipe, SAID, what)):
        while True:
            try:
                text = pipe.recv_bytes().decode("utf-8")
            except EOFError:
                return
            _send(pipe, DONE, call(text))


def _send(pipe: Connection, kind: str, text: str) -> None:
    try:
        pipe.send_bytes(json.dumps([kind, text]).encode("utf-8"))
    except OSError:  # nobody is left to hear it
        os._exit(1)


def _end_with_parent() -> None:
    """End at once when the parent is gone, even in the middle of a task."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
