"""Weights of other libraries' lambda layers and networks, loaded into ours.

Neither library is imported: the functions read modules and state dicts.
"""

from lambdanets.peers.layers import BiasedLambda, from_lambda_networks, from_timm
from lambdanets.peers.networks import TIMM_NETWORKS, rename_weights, timm_network, timm_resnet

__all__ = [
    "TIMM_NETWORKS",
    "BiasedLambda",
    "from_lambda_networks",
    "from_timm",
    "rename_weights",
    "timm_network",
    "timm_resnet",
]
