"""Every experiment has the values of the paper's table, builds and learns."""

import pytest
import torch
from hydra import compose
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch.nn import functional as F

from lambdanets.config.build import ImageSpec, build_model
from lambdanets.peers.networks import TIMM_NETWORKS
from lambdanets.tasks.optimizers import parameter_groups
from tests.configs import EXPERIMENTS, SWEEPS, composing, experiment

SIZE = (64, 64)


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if not name.startswith("coco/")])
def test_one_optimizer_step(name):
    config = experiment(name)
    torch.manual_seed(0)
    side = min(*SIZE, config.recipe.image_size)
    model = build_model(config, ImageSpec(3, (side, side), 10))
    optimizer = instantiate(config.recipe.optimizer)(parameter_groups(model))
    before = [parameter.detach().clone() for parameter in model.classifier.parameters()]
    loss = F.cross_entropy(model(torch.randn(2, 3, side, side)), torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(parameter.grad is not None for parameter in model.parameters())
    optimizer.step()
    after = [*model.classifier.parameters()]
    assert all(torch.isfinite(parameter).all() for parameter in after)
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name.startswith("coco/")])
def test_one_step_of_a_detector(name):
    config = experiment(name, "data.root=nowhere", "model.channels=16", "model.hidden=32", "model.backbone.width=0.25")
    torch.manual_seed(0)
    model = build_model(config, ImageSpec(3, SIZE, 10))
    masks = torch.zeros(1, *SIZE)
    masks[:, 8:40, 10:50] = 1
    target = {"boxes": torch.tensor([[10.0, 8.0, 50.0, 40.0]]), "labels": torch.tensor([3]), "masks": masks}
    losses = model([torch.randn(3, *SIZE)], [target])
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("sweep", SWEEPS)
def test_a_sweep_accepts_the_keys_of_its_rows(sweep):
    key, value = ("side", 64) if sweep.startswith("pathfinder") else ("root", "/data")  # not keys of the default data
    with composing():
        config = compose("config", overrides=[f"sweep={sweep}", f"data.{key}={value}"])
    assert config.data[key] == value
    assert config.sweep.experiments == list(SWEEPS[sweep].rows)


def test_each_experiment_is_defined_once():
    defined = [name for sweep in SWEEPS.values() for name, row in sweep.rows.items() if row is not None]
    assert sorted(defined) == EXPERIMENTS


CONTROLLED = {"data": "ImageNet", "recipe.epochs": 90, "recipe.image_size": 224, "model": "ResNet", "model.depth": 50}
LONG = {"data": "ImageNet", "recipe.epochs": 350, "recipe.optimizer.weight_decay": 4e-5}
LAMBDA = {"mixer": "LambdaLayer", "mixer.scope": 23, "mixer.key_depth": 16, "mixer.heads": 4, "mixer.intra_depth": 1}
LAMBDA |= {"mixer.init": "paper"}
# The reproduction's runs were made before the published initialization was the default.
SMALL_LAMBDA = LAMBDA | {"mixer.init": "small"}
RESNET_RS = {"stem": "deep_strided", "shortcut": "pool", "layout": "LLLL"}
# Blocks with lambda layers in c4 of the LambdaResNets.
C4 = {50: [3], 101: [6, 12, 18], 152: [*range(5, 31, 5)], 200: [*range(5, 31, 5)], 270: [*range(8, 49, 8)]}
C4 |= {350: [*range(10, 61, 10)], 420: [*range(10, 81, 10)]}
RESNET_SIZES = {50: 160, 101: 192, 152: 256, 200: 256, 270: 256, 350: 320, 420: 320}
LAMBDA_RESNET_SIZES = {50: (128, 160), 101: (160, 192), 152: (192, 224, 256), 270: (256,)}
LAMBDA_RESNET_SIZES |= {350: (256, 288, 320), 420: (320,)}
EFFICIENTNET_SIZES = [224, 240, 260, 300, 380, 456, 528, 600]
SE = {"mixer": "SE", "mixer.ratio": 4}


def lambda_resnet(depth):
    gates = {"gate.0.ratio": 4, "gate.1.ratio": 4, "gate.2": None, "gate.3": None}
    return {"depth": depth, "layout": ["C", "C", C4[depth], "L"], **gates}


def prefixed(prefix, values):
    return {f"{prefix}.{key}": value for key, value in values.items()}


def table3():
    yield "conv", {"mixer": "Conv"}
    yield "se", {"mixer": "SE", "mixer.ratio": 16}
    yield "double_attention", {"mixer": "LinearAttention", "mixer.form": "double", "model.layout": "CLLC"}
    yield "efficient_attention", {"mixer": "LinearAttention", "mixer.form": "efficient", "model.layout": "CLLC"}
    yield "augmented", {"mixer": "Augmented", "model.layout": "CLLL"}
    yield "local_attention", {"mixer": "LocalAttention", "mixer.scope": 7}
    yield "local_relation", {"mixer": "LocalRelation", "mixer.scope": 7}
    yield "patchwise", {"mixer": "PatchwiseAttention", "mixer.scope": 7}
    yield "lambda_u1", LAMBDA
    yield "lambda_u4", LAMBDA | {"mixer.intra_depth": 4, "mixer.scope": 7}


def table4():
    yield "attention", {"mixer": "Attention", "mixer.heads": 8}
    yield "axial", {"mixer": "Axial", "mixer.heads": 8}
    yield "local_attention", {"mixer": "LocalAttention", "mixer.scope": 7, "mixer.heads": 8}
    yield "lambda", LAMBDA | {"mixer.scope": "global"}
    yield "lambda_k8", LAMBDA | {"mixer.scope": "global", "mixer.key_depth": 8}
    yield "lambda_shared", LAMBDA | {"mixer": "SharedLambda", "mixer.scope": "global"}
    yield "lambda_conv", {"mixer": "LambdaConv", "mixer.scope": 7, "mixer.key_depth": 16, "mixer.heads": 4}


def ablations():
    yield "content_position/content", {"mixer.content": True, "mixer.position": False}
    yield "content_position/position", {"mixer.content": False, "mixer.position": True}
    yield "content_position/both", {"mixer.content": True, "mixer.position": True}
    yield "normalization/softmax", {"mixer.key_norm": "softmax", "mixer.query_softmax": False, "mixer.batch_norm": True}
    yield "normalization/softmax_queries", {"mixer.key_norm": "softmax", "mixer.query_softmax": True}
    yield "normalization/l2", {"mixer.key_norm": "l2", "mixer.query_softmax": False, "mixer.batch_norm": True}
    yield "normalization/none", {"mixer.key_norm": "none", "mixer.query_softmax": False, "mixer.batch_norm": True}
    yield "normalization/no_batch_norm", {"mixer.key_norm": "softmax", "mixer.batch_norm": False}
    for scope in (3, 7, 15, 23, 31):
        yield f"scope/r{scope}", {"mixer.scope": scope}
    yield "scope/global", {"mixer.scope": "global"}
    grid = [(k, h, 1) for k in (2, 4, 8, 16, 32) for h in (4, 8)] + [(8, 2, 1), (8, 16, 1)]
    grid += [(8, 8, 4), (8, 8, 8), (16, 4, 4)]
    for k, h, u in grid:
        values = {"mixer.key_depth": k, "mixer.heads": h, "mixer.intra_depth": u, "mixer.scope": 23 if u == 1 else 7}
        yield f"hyperparameters/k{k}_h{h}_u{u}", values


def deep_resnets():
    for depth, size in ((101, 224), (152, 256)):
        resnet_rs = {"model": "ResNet", **prefixed("model", RESNET_RS | {"depth": depth, "gate": None})}
        lambdas = {"model": "ResNet", **prefixed("model", RESNET_RS | lambda_resnet(depth))}
        rows = {"conv": resnet_rs | {"mixer": "Conv"}, "se": resnet_rs | SE, "lambda_few": lambdas | LAMBDA}
        rows["lambda_all"] = lambdas | LAMBDA | {"model.layout": "CCLL"}
        for name, values in rows.items():
            yield f"resnet{depth}/{name}", values | {"recipe.image_size": size}


def figure2():
    for depth, size in RESNET_SIZES.items():
        skeleton = prefixed("model", RESNET_RS | {"depth": depth}) | {"recipe.image_size": size}
        yield f"resnet/{depth}", skeleton | {"mixer": "Conv"}
        yield f"se_resnet/{depth}", skeleton | SE
    for depth, sizes in LAMBDA_RESNET_SIZES.items():
        network = LAMBDA | prefixed("model", RESNET_RS | lambda_resnet(depth))
        for size in sizes:
            yield f"lambda_resnet/{depth}_{size}", network | {"recipe.image_size": size}
    for index, size in enumerate(EFFICIENTNET_SIZES):
        network = {"model": "EfficientNet", "model.variant": f"b{index}", "recipe.image_size": size}
        yield f"efficientnet/b{index}", network


def efficiency():
    for name, depth, size in (
        ("params_152", 152, 256),
        ("params_200", 200, 256),
        ("flops_200", 200, 224),
        ("flops_270", 270, 256),
    ):
        network = RESNET_RS | lambda_resnet(depth) | {"layout": "CCLL"}
        yield f"efficiency/{name}", LAMBDA | prefixed("model", network) | {"recipe.image_size": size}


def mobilenet():
    light = {"mixer": "LambdaConv", "mixer.scope": 5, "mixer.key_depth": 8, "mixer.heads": 4, "model.expansion": 1}
    for variant, blocks in (("v2", [10, 16]), ("v3_large", [10])):
        yield variant, {"model.variant": variant, "model.blocks": []}
        yield f"lambda_{variant}", {"model.variant": variant, "model.blocks": blocks} | light


def coco():
    for depth in (101, 152):
        skeleton = prefixed("model.backbone", RESNET_RS | {"depth": depth})
        yield f"resnet{depth}", skeleton | {"mixer": "Conv"}
        yield f"se_resnet{depth}", skeleton | SE
        yield f"lambda_resnet{depth}", skeleton | LAMBDA | prefixed("model.backbone", lambda_resnet(depth))


def reproduction():
    yield "conv", {"mixer": "Conv"}
    yield "se", {"mixer": "SE", "mixer.ratio": 16}
    yield "attention", {"mixer": "Attention", "mixer.heads": 2}
    yield "local_attention", {"mixer": "LocalAttention", "mixer.scope": 7, "mixer.heads": 2}
    yield "lambda_u1", SMALL_LAMBDA
    yield "lambda_u4", SMALL_LAMBDA | {"mixer.intra_depth": 4, "mixer.scope": 7}
    yield "lambda_conv", {"mixer": "LambdaConv", "mixer.scope": 7, "mixer.init": "small"}
    yield "content", SMALL_LAMBDA | {"mixer.position": False}
    yield "position", SMALL_LAMBDA | {"mixer.content": False}
    yield "CCLL", SMALL_LAMBDA | {"model.layout": "CCLL"}


def pathfinder():
    conv = {"mixer": "Conv", "model.width": 0.22}
    lambdas = SMALL_LAMBDA | {"mixer.scope": "global", "model.width": 0.26}
    lambda_conv = {"mixer": "LambdaConv", "mixer.scope": 7, "mixer.init": "small", "model.width": 0.27}
    small, large = (
        {"data.side": 32, "recipe.epochs": 6},
        {"data.side": 64, "recipe.epochs": 6, "model.stem": "imagenet"},
    )
    yield "conv", small | conv
    yield "lambda", small | lambdas
    yield "lambda_conv", small | lambda_conv
    yield "equal_time/conv", small | conv | {"recipe.epochs": 11}
    yield "equal_time/lambda_conv", small | lambda_conv | {"recipe.epochs": 8}
    attention = {"mixer": "Attention", "mixer.heads": 2, "model.width": 0.26, "recipe.epochs": 3}
    yield "equal_time/attention", small | attention
    yield "64/conv", large | conv
    yield "64/lambda", large | lambdas


def claims_rows(hybrid, layout, heads):
    yield "conv", {"mixer": "Conv"}
    yield "se", {"mixer": "SE", "mixer.ratio": 16}
    yield "lambda_u1", LAMBDA
    yield "local_attention", {"mixer": "LocalAttention", "mixer.scope": 7, "mixer.heads": heads}
    yield "lambda_conv", {"mixer": "LambdaConv", "mixer.scope": 7, "mixer.key_depth": 16, "mixer.heads": 4}
    yield hybrid, LAMBDA | {"model.layout": layout}
    yield "content", LAMBDA | {"mixer.content": True, "mixer.position": False}
    yield "position", LAMBDA | {"mixer.content": False, "mixer.position": True}
    yield "lambda_u4", LAMBDA | {"mixer.intra_depth": 4, "mixer.scope": 7}
    yield "attention", {"mixer": "Attention", "mixer.heads": heads}


def pathfinder_scope():
    yield "conv", {"mixer": "Conv", "model.width": 0.22}
    for name, scope, width in (("r3", 3, 0.27), ("r7", 7, 0.27), ("r15", 15, 0.27), ("r23", 23, 0.26)):
        yield name, LAMBDA | {"mixer.scope": scope, "model.width": width}
    yield "global", LAMBDA | {"mixer.scope": "global", "model.width": 0.26}


def hybrids():
    for layout in ("CCCC", "LCCC", "LLCC", "LLLC", "LLLL", "CLLL", "CCLL", "CCCL"):
        yield layout, {"model.layout": layout}


SLIM = {"model": "ResNet", "model.depth": [1, 1, 1, 1]}
COMPACT = {"model": "ResNet", "model.depth": [2, 2], "model.width": 1, "model.stem": "fine"}
DETECTION = {"data": "Coco", "model": "MaskRCNN", "task": "Detection", "recipe.image_size": 1024}
EXPECTED = {
    f"{prefix}{name}": shared | values
    for prefix, shared, rows in (
        ("table3/", CONTROLLED, table3()),
        ("table4/", CONTROLLED, table4()),
        ("hybrids/", CONTROLLED | LAMBDA, hybrids()),
        ("ablation/", CONTROLLED | LAMBDA, ablations()),
        ("", LONG, deep_resnets()),
        ("", LONG, figure2()),
        ("", LONG, efficiency()),
        ("mobilenet/", LONG | {"model": "MobileNet", "recipe.image_size": 224}, mobilenet()),
        (
            "timm/",
            LONG | {"model": "timm_resnet", "recipe.image_size": 256},
            [(name, {"model.name": name}) for name in TIMM_NETWORKS],
        ),
        ("coco/", DETECTION, coco()),
        (
            "reproduction/",
            SLIM | {"data": "ImageFolder", "recipe.epochs": 3, "recipe.optimizer.lr": 0.4},
            reproduction(),
        ),
        ("pathfinder/", SLIM | {"data": "Pathfinder"}, pathfinder()),
        ("cifar10/", COMPACT | {"data": "ImageFolder"}, claims_rows("hybrid", "CL", 4)),
        (
            "fashion_mnist/",
            COMPACT | {"data": "FashionMNIST"},
            [row for row in claims_rows("hybrid", "CL", 4) if row[0] in ("conv", "lambda_u1", "hybrid")],
        ),
        (
            "pathfinder_scope/",
            SLIM | {"data": "Pathfinder", "data.side": 64, "model.stem": "imagenet"},
            pathfinder_scope(),
        ),
        (
            "reproduction_gpu/",
            {"data": "ImageFolder", "model": "ResNet", "model.depth": 26, "model.width": 1, "recipe.epochs": 100},
            claims_rows("CCLL", "CCLL", 8),
        ),
    )
    for name, values in rows
}


def test_all_experiments_have_expected_values():
    assert sorted(EXPECTED) == EXPERIMENTS


@pytest.mark.parametrize("name", EXPECTED)
def test_an_experiment_has_the_values_of_its_table(name):
    config = experiment(name)
    for key, value in EXPECTED[name].items():
        setting = OmegaConf.select(config, key)
        if key in ("data", "model", "mixer", "task"):
            setting = setting._target_.rpartition(".")[2]
        assert setting == value, key
