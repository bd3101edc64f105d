"""Is the server in this container ready? (exit status 0: yes); asked over HTTP on loopback, so it needs no token."""

import os
import sys
from urllib.request import ProxyHandler, build_opener

TIMEOUT_S = 2.0


def main() -> int:
    """Ask /readyz on the port for metrics; every failure is a no."""
    port = os.environ.get("FFNSEARCH_METRICS_PORT", "9464")
    try:
        build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT_S).close()
    except OSError as error:
        print(f"not ready: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
