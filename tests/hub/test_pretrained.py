"""New networks with trained weights."""

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

import lambdanets
from lambdanets.errors import UserError
from lambdanets.hub.pretrained import load_pretrained
from lambdanets.jobs import export, predict
from lambdanets.runs.checkpoints import read_checkpoint
from tests.checkpoints import write_checkpoint
from tests.in_process import refusal_of, run

GLOBAL = {"mixer": "lambda", "in_channels": 1, "overrides": ["mixer.scope=global"]}


@pytest.fixture
def trained(tmp_path):
    """Write a checkpoint, and return its config and its network."""
    config, network, _ = write_checkpoint(tmp_path, ["mixer=lambda", "mixer.scope=global", "model=tiny"])
    return config, network


def test_the_same_network_gets_all_weights(trained, tmp_path):
    config, network = trained
    export.run(config, tmp_path / "out")
    for source in (config.ckpt, str(tmp_path / "out")):
        same = lambdanets.create("tiny", pretrained=source, image_size=8, num_classes=10, **GLOBAL)
        for name, tensor in network.state_dict().items():
            assert torch.equal(same.state_dict()[name], tensor)


def test_other_classes_and_sizes(trained):
    config, network = trained
    other = lambdanets.create("tiny", pretrained=config.ckpt, image_size=16, num_classes=3, **GLOBAL)
    assert other.classifier.out_features == 3
    assert torch.equal(other.stages[0][0].conv1.weight, network.stages[0][0].conv1.weight)
    assert other.stages[0][0].mixer.table.shape[2:] == (31, 31)


@pytest.mark.parametrize("num_classes", [0, 5])
def test_a_hidden_layer_before_the_classifier_is_kept(num_classes, tmp_path):
    config, network, _ = write_checkpoint(tmp_path, ["mixer=conv", "model=mobilenet_v3_large"])
    options = {"mixer": "conv", "in_channels": 1, "image_size": 8, "num_classes": num_classes}
    other = lambdanets.create("mobilenet_v3_large", pretrained=config.ckpt, **options)
    assert torch.equal(other.classifier[0].weight, network.classifier[0].weight)


def test_another_architecture_is_refused(trained):
    config, _ = trained
    source = "has mixer LambdaLayer with scope=global and depth="
    message = rf"does not match the model in \d+ of \d+ tensors: .* the source, which {source}"
    with pytest.raises(UserError, match=message):
        lambdanets.create("tiny", mixer="conv", pretrained=config.ckpt, image_size=8, in_channels=1)


def test_a_local_table_is_not_stretched_to_a_global_one(tmp_path):
    config, network, _ = write_checkpoint(tmp_path, ["mixer=lambda", "mixer.scope=7", "model=tiny"])
    with pytest.raises(UserError, match=r"mixer\.table is \[.*7, 7\], and .* LambdaLayer with scope=7 and depth="):
        lambdanets.create("tiny", pretrained=config.ckpt, image_size=16, num_classes=10, **GLOBAL)
    with pytest.raises(UserError, match=r"table is \[.*7, 7\] in the checkpoint and"):
        predict.run(OmegaConf.merge(config, {"input": str(tmp_path), "mixer": {"scope": "global"}}), tmp_path / "out")
    with pytest.raises(UserError, match=r"table is \[.*7, 7\] in the checkpoint and"):
        export.run(OmegaConf.merge(config, {"mixer": {"scope": "global"}}), tmp_path / "out")
    same = lambdanets.create("tiny", mixer="lambda", pretrained=config.ckpt, in_channels=1, image_size=16,
                             num_classes=10, overrides=["mixer.scope=7"])  # fmt: skip
    assert torch.equal(same.stages[0][0].mixer.table, network.stages[0][0].mixer.table)


def test_a_training_starts_from_the_weights(trained, tmp_path):
    config, network = trained
    options = ("trainer.max_epochs=1", "trainer.limit_train_batches=1", "recipe.optimizer.lr=0", "mixer.scope=global")
    done = run(f"model.pretrained={config.ckpt}", *options, cwd=tmp_path)
    assert f"Initialized all weights from {config.ckpt}." in done.text
    (last,) = tmp_path.glob("outputs/*/*/checkpoints/last.ckpt")
    state = read_checkpoint(last)["state_dict"]
    assert torch.equal(state["model.stages.0.0.mixer.table"], network.stages[0][0].mixer.table)


def test_a_source_that_does_not_exist_is_an_error_of_one_line(tmp_path):
    error = refusal_of("model.pretrained=nowhere", "trainer.max_epochs=1", cwd=tmp_path)
    assert "error: 'nowhere' does not exist" in error


def test_published_weights_win_over_the_hub_and_a_wrong_name_is_not_sought_there(weights, hub):
    _, network = weights
    hub("digits/lambda")  # empty
    new = lambdanets.create("digits/lambda")
    load_pretrained(new, "digits/lambda")
    assert torch.equal(new.classifier.weight, network.classifier.weight)
    with pytest.raises(UserError, match=r"does not exist\. .* similar name: digits/lambda\. .* is hf-hub:digits/lamda"):
        load_pretrained(new, "digits/lamda", key="model.pretrained")
    for name in ("hf-hub:digits/lamda", "hf-hub:digits/conv"):  # the hub's for sure
        with pytest.raises(UserError, match=f"'{name.removeprefix('hf-hub:')}' could not be downloaded"):
            load_pretrained(new, name)
    with pytest.raises(UserError, match="'someone/resnet50' could not be downloaded"):
        load_pretrained(new, "someone/resnet50")


@pytest.mark.parametrize(
    ("name", "tag"),
    [("lambda_resnet26t", "c1_in1k"), ("lambda_resnet26rpt_256", "c1_in1k"), ("lambda_resnet50ts", "a1h_in1k")],
)
def test_the_weights_of_timm_give_the_logits_of_timm(name, tag, hub):
    torch.manual_seed(0)
    theirs = timm.create_model(name, num_classes=20)
    torch.nn.init.normal_(theirs.head.fc.weight)
    x = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        theirs(x)  # the batch norms get statistics
        expected = theirs.eval()(x)
    source = f"timm/{name}.{tag}"
    save_file(theirs.state_dict(), hub(source) / "model.safetensors")
    ours = lambdanets.create(name, pretrained=source, image_size=256, num_classes=20).eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-4)
    other = lambdanets.create(name, pretrained=source, image_size=256, num_classes=5)
    assert other.classifier.out_features == 5
    assert torch.equal(other.stem[0].weight, theirs.stem.conv1.conv.weight)
    with pytest.raises(UserError, match=f"does not match the model: choose model={name}"):
        load_pretrained(lambdanets.create("tiny", mixer="conv"), source)
    if name == "lambda_resnet26t":  # its tables of 9×9 offsets are not stretched to those of a global scope
        with pytest.raises(UserError, match=r"table is \[.*9, 9\], and"):
            lambdanets.create("lambda_resnet26rpt_256", pretrained=source)


def test_other_networks_of_timm_are_refused():
    with pytest.raises(UserError, match="is not a lambda network of timm's; choose among lambda_resnet26t"):
        load_pretrained(lambdanets.create("tiny", mixer="conv"), "timm/resnet50.a1_in1k")
