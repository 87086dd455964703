"""Run a command on the first of two hosts that are one machine: two network namespaces of Linux, with a cable between
them, and names of their own. Root alone may do that.

    python tests/two_hosts.py python tests/lost_workers.py --workers 2 --times 2 --mpi "--map-by node:oversubscribe"

Open MPI starts what belongs on the second host by a program that stands here in the place of ssh. While the command
runs, `ip -n host2 link set cable down` in another terminal cuts the cable.
"""

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

HOSTS = {"host1": "10.77.0.1", "host2": "10.77.0.2"}
ON_HOST = "ip netns exec {host} unshare --uts sh -c 'hostname {host}; exec \"$@\"' sh"
AGENT = """#!/bin/sh
host=$1; shift
exec ip netns exec $host unshare --uts sh -c "hostname $host; $*"
"""


def say(words: str, check: bool = True) -> None:
    subprocess.run(shlex.split(words), check=check, stderr=None if check else subprocess.DEVNULL)


def main(command: list[str]) -> int:
    names = "127.0.0.1 localhost\n" + "".join(f"{address} {host}\n" for host, address in HOSTS.items())
    with tempfile.TemporaryDirectory() as folder:
        agent, hosts = Path(folder, "agent"), Path(folder, "hosts")
        agent.write_text(AGENT)
        agent.chmod(0o755)
        hosts.write_text("".join(f"{host} slots=2\n" for host in HOSTS))
        try:
            for host in HOSTS:
                say(f"ip netns add {host}")
                Path("/etc/netns", host).mkdir(parents=True)
                Path("/etc/netns", host, "hosts").write_text(names)  # which `ip netns exec` shows as /etc/hosts
            say("ip link add cable netns host1 type veth peer name cable netns host2")
            for host, address in HOSTS.items():
                say(f"ip -n {host} addr add {address}/24 dev cable")
                say(f"ip -n {host} link set cable up")
                say(f"ip -n {host} link set lo up")
            environment = os.environ | {
                "PRTE_MCA_plm_ssh_agent": str(agent),
                "PRTE_MCA_prte_default_hostfile": str(hosts),
            }
            return subprocess.run([*shlex.split(ON_HOST.format(host="host1")), *command], env=environment).returncode
        finally:
            for host in HOSTS:
                say(f"ip netns del {host}", check=False)
                Path("/etc/netns", host, "hosts").unlink(missing_ok=True)
                Path("/etc/netns", host).rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
