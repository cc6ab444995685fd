"""Lightning Fabric, imported without torchmetrics.

Where torchmetrics is installed, Fabric imports it only to look at its version. That takes longer than the import of
torch, and Fabric uses torchmetrics for nothing that toco needs.
"""

import sys
from typing import Any

modules: dict[str, Any] = sys.modules
absent = "torchmetrics" not in modules
if absent:
    modules["torchmetrics"] = None  # `import torchmetrics` now fails as if it were not installed
try:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
    from lightning_fabric.strategies.ddp import DDPStrategy
finally:
    if absent:
        del modules["torchmetrics"]

__all__ = [
    "ClusterEnvironment",
    "DDPStrategy",
    "Fabric",
    "LightningEnvironment",
    "SLURMEnvironment",
    "TensorBoardLogger",
    "TorchElasticEnvironment",
]
