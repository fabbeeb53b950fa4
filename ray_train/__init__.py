"""Models, the training loop and the Ray entry points."""

import os

# Read by OpenMP when torch is imported. Its threads wait by spinning: on a machine that also runs Ray, a server or
# another training, two spinning threads on two busy cores train 4-8 times slower; sleeping ones lose 10% alone.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
