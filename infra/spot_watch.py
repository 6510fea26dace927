"""Drain this Ray node when AWS takes its spot instance back.

It runs beside Ray on every worker, and ends at once if the instance is not a spot instance. AWS gives two
minutes' notice through the instance metadata (IMDSv2). A drained node gets no new tasks. Training workers
see it in `ray.train.get_preemption_info()` and save a checkpoint.
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime

IMDS = os.environ.get("IMDS", "http://169.254.169.254")  # another address only in tests
POLL_SECONDS = float(os.environ.get("POLL_SECONDS", "5"))  # shorter only in tests
MARGIN_SECONDS = 10  # finish this long before the machine goes


def fetch(method: str, path: str, headers: dict[str, str]) -> str | None:
    """Return the body at a metadata path, or None on 404."""
    request = urllib.request.Request(f"{IMDS}/latest/{path}", method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as response:
            return response.read().decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def read(path: str) -> str | None:
    """Return a metadata value. Each call takes a new token, because a token expires."""
    token = fetch("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    return fetch("GET", f"meta-data/{path}", {"X-aws-ec2-metadata-token": token or ""})


def seconds_left(notice: str) -> int:
    """Return the seconds until the end that an `instance-action` document names."""
    end = datetime.fromisoformat(json.loads(notice)["time"])
    return max(0, int((end - datetime.now(UTC)).total_seconds()) - MARGIN_SECONDS)


def drain(seconds: int) -> bool:
    """Ask Ray to drain this node within `seconds`. Returns False if Ray refuses."""
    command = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    command += ["--reason-message", "spot", "--deadline-remaining-seconds", str(seconds)]
    return subprocess.run(command).returncode == 0


def ask(path: str) -> str | None:
    """Read a metadata value until the service answers: it limits the rate of requests."""
    while True:
        try:
            return read(path)
        except OSError as error:
            print("metadata:", error, flush=True)
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Wait for the notice and drain the node."""
    if ask("instance-life-cycle") != "spot":
        return
    drained = False
    while not drained:
        time.sleep(POLL_SECONDS)
        if notice := ask("spot/instance-action"):
            print("spot notice:", notice, flush=True)
            drained = drain(seconds_left(notice))


if __name__ == "__main__":
    main()
