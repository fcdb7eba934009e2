"""What may stand where a bottleneck's 3×3 convolution stands; one file a mixer."""

from lambdanets.mixers.attention import Attention
from lambdanets.mixers.conv import Conv
from lambdanets.mixers.lambda_conv import LambdaConv
from lambdanets.mixers.lambda_layer import LambdaLayer
from lambdanets.mixers.se import SE, squeeze_excitation
from lambdanets.mixers.seam import Gate, Mixer
from lambdanets.mixers.shared import SharedLambda

__all__ = [
    "SE",
    "Attention",
    "Conv",
    "Gate",
    "LambdaConv",
    "LambdaLayer",
    "Mixer",
    "SharedLambda",
    "squeeze_excitation",
]
