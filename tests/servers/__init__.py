"""Real servers on loopback for the tests: object stores, web servers, and a proxy with faults."""

import os

# An emulator does not speak gRPC, over which gcsfs would ask for the type of a bucket. It looks
# at this when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
