"""Start two machines in namespaces of this process and print as JSON what they see; with a word, only wait.

A program of its own, because it must be in namespaces of its own.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

from infra.rehearsal.machine_init import HOME
from infra.rehearsal.machines import Network

SERVER = "import socket; server = socket.create_server(('', 7000)); print('listens', flush=True); {rest}"
ANSWER = "\nwhile True: server.accept()[0].close()"
ASK = "import socket; socket.create_connection(('{address}', 7000), timeout=1).close()"


def python(machine, code, **options):
    """Whether a program ends well on a machine."""
    return machine.run("python", "-c", code, check=False, **options).returncode == 0


def look(folder):
    """Return what is seen."""
    network = Network(("one", "two"), folder)
    one, two = network.machine("one", {}), network.machine("two", {}, Path.cwd())
    seen = {"addresses": [one.address, two.address], "names": [m.run("hostname").stdout for m in (one, two)]}
    one.write(Path("/tmp/mine"), "secret")
    seen["tmp"] = [machine.run("ls", "/tmp").stdout for machine in (one, two)]
    seen["home"] = [machine.run("ls", str(HOME)).stdout for machine in (one, two)]
    seen["packages"] = [python(machine, "import ray") for machine in (one, two)]
    seen["project"] = [python(one, "import uniner"), python(two, "import uniner", folder="uniner")]
    seen["project's folder"] = one.run("ls", str(Path.cwd() / "uniner"), check=False).returncode == 0
    seen["links"] = one.run("ls", "/sys/class/net").stdout.split()
    server = one.start("python", "-c", SERVER.format(rest=ANSWER), output=subprocess.PIPE)
    server.stdout.readline()
    ask = ASK.format(address=one.address)
    seen["reached"] = [python(two, ask)]
    one.cut()
    seen["reached"].append(python(two, ask))
    one.mend()
    seen["reached"].append(python(two, ask))
    seen["processes"] = len(one.processes())
    one.kill()
    seen["server"] = server.wait(10)
    seen["reached"].append(python(two, ask))
    return seen


def main():
    """Look, or start two machines and wait."""
    folder = Path("/mnt")
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    if sys.argv[1:]:
        network = Network(("one", "two"), folder)
        for machine in [network.machine(name, {}) for name in ("one", "two")]:
            sleeper = machine.start("sh", "-c", "echo sleeps; exec sleep 1000", output=subprocess.PIPE)
            sleeper.stdout.readline()
        print("waits", flush=True)
        signal.pause()
    print(json.dumps(look(folder)), flush=True)


if __name__ == "__main__":
    main()
