"""`ray start` for a node of a rehearsal, which shall listen on the loopback alone.

`ray start --node-ip-address=127.0.0.1` takes the machine's outer address instead, on purpose, and then offers metrics to
the whole network without a token. With RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 (`ENVIRONMENT`) every process of Ray stays on the
loopback, as it does on a Mac, but a second node may not join. Here it may. Private names of Ray 2.60, which is pinned;
tests/faults/test_ray_cluster.py looks at the sockets.
"""

from __future__ import annotations

ENVIRONMENT = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def main() -> None:
    """Run the command line of `ray`."""
    from ray._private import ray_constants, services
    from ray.scripts import scripts

    services.resolve_ip_for_localhost = lambda host: host
    ray_constants.ENABLE_RAY_CLUSTER = True  # in this process; its children read the variable
    scripts.main()


if __name__ == "__main__":
    main()
