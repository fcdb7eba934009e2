"""The choice among the methods by the cost model."""

from lambdanets.ops import kernel
from lambdanets.ops.cost import Shape, predict_costs


def shape(side, channels, scope, *, batch=8, training=True):
    reach = 2 * side - 1 if scope == "global" else scope
    return Shape(batch, side, side, (side, side), 4, 16, channels // 4, 1, (reach, reach), training=training)


def fastest(*args, **options):
    costs = predict_costs.__wrapped__(shape(*args, **options))
    return min(costs, key=lambda name: costs[name].seconds)


def test_the_choice_follows_the_shape(monkeypatch):
    """As measured on a CPU: see benchmark=methods."""
    monkeypatch.setattr(kernel, "kernel_error", lambda: "there is no C compiler")
    assert fastest(14, 256, "global") == "scores"
    assert fastest(56, 64, 7) == "tiles"
    assert fastest(28, 128, 23) == "row_fft"
    assert fastest(112, 64, "global", batch=1) == "fourier"


def test_the_kernel_is_chosen_for_small_contexts(monkeypatch):
    monkeypatch.setattr(kernel, "kernel_error", lambda: None)
    assert fastest(14, 256, "global") == fastest(56, 64, 7) == fastest(28, 128, 23) == "kernel"
    assert fastest(112, 64, "global", batch=1) == "fourier"


def test_a_larger_map_costs_more_and_training_more_than_inference():
    small, large = predict_costs(shape(14, 64, 7)), predict_costs(shape(28, 64, 7))
    inference = predict_costs(shape(14, 64, 7, training=False))
    assert all(small[name].seconds < large[name].seconds for name in small)
    assert all(inference[name].seconds < small[name].seconds for name in small)
