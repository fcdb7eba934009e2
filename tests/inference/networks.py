"""Networks with statistics and gains as no initialization has them."""

from torch import nn

from lambdanets.hub.create import create

MIXERS = (
    "attention",
    "augmented",
    "axial",
    "conv",
    "lambda",
    "lambda_conv",
    "lambda_shared",
    "linear_attention",
    "local_attention",
    "local_relation",
    "patchwise",
    "se",
)
# Further choices that compute in another way: model, mixer, overrides.
NETWORKS = [
    *[("small", mixer, ()) for mixer in MIXERS],
    ("small", "linear_attention", ("mixer.form=efficient",)),
    ("small", "lambda", ("mixer.scope=global",)),
    ("small", "lambda", ("mixer.scope=7", "mixer.intra_depth=4")),
    ("small", "lambda", ("mixer.causal=true",)),
    ("small", "lambda", ("mixer.position=false",)),
    ("small", "lambda", ("mixer.batch_norm=false",)),
    ("small", "lambda_conv", ("mixer.strided=true",)),
    ("small", "lambda_conv", ("mixer.dilation=2",)),
    ("small", "conv", ("model.act=silu", "model.shortcut=pool", "model.stem=deep")),
    ("lambda_resnet50", "lambda", ("model.depth=[1,1,1,1]", "model.layout=CCLL", "model.width=0.25")),
    ("mobilenet_v2", "lambda", ("mixer.heads=1", "mixer.scope=7", "model.blocks=[3,12]", "model.width=0.5")),
    ("mobilenet_v2", "conv", ("model.variant=v3_large", "model.blocks=[]", "model.width=0.5")),
    ("efficientnet", "conv", ()),
]


def make_network(model, mixer, overrides, **options):
    """Create a network in evaluation mode for images of 3 × 32 × 32."""
    small = ("model.width=0.25", "model.depth=[1,1]", "model.layout=LL", "model.strides=[1,2]")
    options = {"image_size": 32, "num_classes": 10, **options}
    network = create(model, mixer=mixer, overrides=[*(small if model == "small" else ()), *overrides], **options)
    randomize_norms(network)
    return network.eval()


def randomize_norms(network):
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
