"""Exit with 0 if the host in this container is ready.

Reads the environment variables of the ports, the address and TLS, with the defaults of
their options, and no other source of options.
"""

from __future__ import annotations

import os
import ssl
from urllib.request import urlopen

probe = os.environ.get("OIP_PROBE_PORT")
port = probe or os.environ.get("KSERVE_HTTP_PORT") or "8080"
bound = os.environ.get("OIP_BIND") or "0.0.0.0"
host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(bound, bound)
certificates = ("OIP_TLS_CERT_FILE", "KSERVE_TLS_CERT_FILE")
secure = not probe and any(map(os.environ.get, certificates))
scheme = "https" if secure else "http"
# the request goes to this container, by a name that no certificate has
context = ssl._create_unverified_context() if secure else None
urlopen(f"{scheme}://{host}:{port}/v2/health/ready", timeout=4, context=context)
