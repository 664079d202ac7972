"""orthostream: the residual stream of deep networks.

``orthostream.ops`` holds the operations, ``orthostream.connections`` the rules by which branches meet the
stream, ``orthostream.models`` the models of the papers. Importing this package needs torch alone; parts that
need more say which extra to install.
"""

from orthostream import analysis, connections, models, ops

__version__ = "0.1.0"

__all__ = ["analysis", "connections", "models", "ops"]
