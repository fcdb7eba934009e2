"""Mixers, which may replace a bottleneck's 3×3 convolution; one file per mixer."""

from lambdanets.mixers.attention import Attention
from lambdanets.mixers.augmented import Augmented
from lambdanets.mixers.axial import Axial
from lambdanets.mixers.conv import Conv
from lambdanets.mixers.double_attention import DoubleAttention
from lambdanets.mixers.efficient_attention import EfficientAttention
from lambdanets.mixers.interface import Gate, GatedMixer, Mixer
from lambdanets.mixers.lambda_conv import LambdaConv
from lambdanets.mixers.lambda_layer import LambdaLayer
from lambdanets.mixers.linear_attention import LinearAttention
from lambdanets.mixers.local_attention import LocalAttention
from lambdanets.mixers.local_relation import LocalRelation
from lambdanets.mixers.patchwise import PatchwiseAttention
from lambdanets.mixers.se import SE, squeeze_excitation
from lambdanets.mixers.shared import SharedLambda

__all__ = [
    "SE",
    "Attention",
    "Augmented",
    "Axial",
    "Conv",
    "DoubleAttention",
    "EfficientAttention",
    "Gate",
    "GatedMixer",
    "LambdaConv",
    "LambdaLayer",
    "LinearAttention",
    "LocalAttention",
    "LocalRelation",
    "Mixer",
    "PatchwiseAttention",
    "SharedLambda",
    "squeeze_excitation",
]
