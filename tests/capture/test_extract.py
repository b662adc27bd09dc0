"""Capture reads every stage as it is, once, and leaves no trace."""

import random
import re

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.feature_extraction import create_feature_extractor

from lwexplain.capture.extract import extract
from lwexplain.capture.pooling import StagePooling, pool
from lwexplain.errors import CaptureError, UserCodeError
from lwexplain.models.modules import as_parameters
from lwexplain.models.tokens import TokenGrid


def batches(n=6, size=32, batch_size=4, channels=3):
    x = torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, torch.arange(n) % 3, torch.arange(n) + 10), batch_size)


class Net(nn.Module):
    """Three stages, an in-place ReLU after the first, dropout, and a head."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.b = nn.Sequential(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.Dropout(0.5))
        self.c = nn.AdaptiveAvgPool2d(1)
        self.unused = nn.Linear(2, 2)
        self.fc = nn.Linear(5, 3)
        self.deepest_calls = 0

    def forward(self, x):
        x = self.c(self.b(self.relu(self.a(x)))).flatten(1)
        self.deepest_calls += 1
        return self.fc(x)


def fingerprint(model):
    return (
        [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()],
        [(p.requires_grad, p.grad is None, p.detach().clone().numpy().tobytes()) for p in model.parameters()],
        [b.clone().numpy().tobytes() for b in model.buffers()],
        random.getstate(),
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
    )


FOREIGN = {
    "resnet18": (32, ["bn1", "layer1.0.bn2", "layer1.1", "layer2.0.downsample.1", "layer4.1", "avgpool"]),
    "resnet50": (32, ["conv1", "layer1.2.bn3", "layer3.5", "layer4.2"]),
    "vgg11": (32, ["features.0", "features.10", "features.20", "avgpool"]),
    "mobilenet_v3_small": (64, ["features.0", "features.3", "features.6.block.2", "features.12", "avgpool"]),
    "convnext_tiny": (64, ["features.0", "features.1.2", "features.5.8", "features.7.2"]),
    "vit_b_16": (32, ["conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_11", "encoder.ln"]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_features_equal_those_of_a_recomputed_truncated_network(name):
    """Reference: the network cut after each stage by torchvision, run from the images on, without hooks."""
    size, stages = FOREIGN[name]
    options = {"image_size": size} if name == "vit_b_16" else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=3, **options).eval()
    loader = batches(3, size, 2)
    captured = extract(model, loader, stages)
    assert captured.stages == stages
    for stage in stages:
        truncated = create_feature_extractor(model, return_nodes={stage: "out"})
        with torch.no_grad():
            raw = torch.cat([truncated(x)["out"].clone() for x, _, _ in loader])
        mean = raw.mean((2, 3)) if raw.ndim == 4 else raw[:, 0]  # of tokens the class token, which the head reads
        np.testing.assert_allclose(captured.features[stage], mean.numpy(), rtol=1e-6, atol=1e-6)
    assert captured.labels.tolist() == [0, 1, 2]
    assert captured.index is not None
    assert captured.index.tolist() == [10, 11, 12]


def test_an_output_overwritten_in_place_is_captured_before():
    model = torchvision.models.resnet18(weights=None).eval()
    with torch.no_grad():
        model.bn1.bias.fill_(-0.5)
    assert extract(model, batches(), ["bn1"], pooling="flatten").features["bn1"].min() < -0.5


@pytest.mark.parametrize(("pooling", "width"), [("mean", 4), ("max", 4), ("flatten", 4 * 30 * 30)])
def test_pooling(pooling, width):
    model = Net()
    captured = extract(model, batches(), ["a"], pooling=pooling)
    raw = torch.cat([model.a(x) for x, _, _ in batches()]).detach()
    expected = {"mean": raw.mean((2, 3)), "max": raw.amax((2, 3)), "flatten": raw.flatten(1)}[pooling]
    assert captured.features["a"].shape == (6, width)
    assert captured.features["a"].dtype == np.float32
    np.testing.assert_allclose(captured.features["a"], expected.numpy(), atol=1e-6)


def test_the_pyramid_holds_the_means_of_its_bins():
    raw = torch.randn(2, 3, 4, 6)
    pooled = pool(raw, "pyramid").reshape(2, -1)
    assert pooled.shape == (2, 3 * (1 + 4 + 16))
    torch.testing.assert_close(pooled[:, :3], raw.mean((2, 3)))
    halves = torch.stack([raw[..., :2, :3], raw[..., :2, 3:], raw[..., 2:, :3], raw[..., 2:, 3:]], 2).mean((3, 4))
    torch.testing.assert_close(pooled[:, 3:15], halves.flatten(1))
    assert pool(raw[..., :3, :3], "pyramid").shape == (2, 3 * 5)
    with pytest.raises(CaptureError, match="no spatial pyramid"):
        pool(torch.zeros(2, 5, 3), "pyramid")


def test_pooling_of_tokens_and_of_own_making():
    tokens = torch.randn(2, 5, 3)
    assert torch.equal(pool(tokens, "max"), tokens.amax(1))
    assert torch.equal(pool(tokens, lambda raw: raw[:, 0]), tokens[:, 0])
    with pytest.raises(CaptureError, match="did you mean 'mean'"):
        pool(tokens, "men")
    with pytest.raises(CaptureError, match=r"shape \(2, 3, 4, 5, 6\)"):
        pool(torch.zeros(2, 3, 4, 5, 6))
    with pytest.raises(CaptureError, match=r"expected a tensor \(N, D\)"):
        pool(tokens, lambda raw: raw)


def test_pooling_always_copies():
    features = torch.randn(3, 4)
    for pooling in ("mean", "max", "flatten", lambda raw: raw[:, :2]):
        assert pool(features, pooling).untyped_storage().data_ptr() != features.untyped_storage().data_ptr()


def test_heads_see_the_raw_output_in_the_same_pass():
    model = Net()
    captured = extract(model, batches(), ["a", "c"], heads={"c": nn.Sequential(nn.Flatten(), model.fc)})
    model.eval()
    with torch.no_grad():
        expected = torch.cat([model(x) for x, _, _ in batches()])
    assert list(captured.logits) == ["c"]
    np.testing.assert_allclose(captured.logits["c"], expected.numpy(), atol=1e-6)


def test_a_head_that_is_itself_a_stage_counts_once():
    model = Net()
    captured = extract(model, batches(), ["c", "fc"], heads={"c": lambda raw: model.fc(raw.flatten(1))})
    np.testing.assert_allclose(captured.logits["c"], captured.features["fc"], atol=1e-6)


def test_a_head_with_an_in_place_layer_does_not_reach_deeper_stages():
    model = Net()
    head = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3))
    head(torch.zeros(1, 5, 28, 28))
    with_head = extract(model, batches(), ["b", "c"], heads={"b": head})
    np.testing.assert_array_equal(with_head.features["c"], extract(model, batches(), ["c"]).features["c"])


def test_the_pass_ends_after_the_deepest_stage_once_calls_are_counted():
    model = Net()
    extract(model, batches(12, batch_size=4), ["a", "relu"])
    assert model.deepest_calls == 2  # one image, to find the channels, and the first batch


def test_batch_size_does_not_matter():
    model = Net()
    one, all_ = (extract(model, batches(batch_size=size), ["a", "b", "c"]) for size in (1, 6))
    for stage in one.features:
        np.testing.assert_allclose(one.features[stage], all_.features[stage], atol=1e-6)


def test_a_store_holds_the_same_features_in_npy_files(tmp_path):
    model = Net()
    memory = extract(model, batches(), ["a", "b.0"])
    stored = extract(model, batches(), ["a", "b.0"], store=tmp_path / "features")
    assert sorted(p.name for p in (tmp_path / "features").iterdir()) == ["a.npy", "b.0.npy"]
    for stage in memory.features:
        assert isinstance(stored.features[stage], np.memmap)
        np.testing.assert_array_equal(memory.features[stage], np.load(tmp_path / "features" / f"{stage}.npy"))
    strange = extract(model, batches(), ["x/../y"], modules={"x/../y": model.a}, store=tmp_path / "other")
    assert len(list((tmp_path / "other").iterdir())) == 1
    np.testing.assert_array_equal(strange.features["x/../y"], memory.features["a"])


def test_a_failed_pass_leaves_no_file(tmp_path):
    def broken():
        yield from batches()
        raise OSError("disk gone")

    with pytest.raises(UserCodeError, match="the loader raised OSError: disk gone"):
        extract(Net(), broken(), ["a"], store=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_changes_in_model_modes_or_random_state():
    model = Net()
    model.b[1].eval()
    model.a.weight.requires_grad_(False)
    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(5, 3))
    loader = DataLoader(batches().dataset, 4, shuffle=True)
    before = fingerprint(model), fingerprint(head)
    extract(model, loader, ["a", "c"], heads={"c": head})
    assert (fingerprint(model), fingerprint(head)) == before


def test_nothing_is_left_behind_by_an_exception():
    class Failing(Net):
        def forward(self, x):
            torch.rand(1)
            super().forward(x)
            raise RuntimeError("inside the model")

    model = Failing()
    before = fingerprint(model)
    for stages in (["a", "c"], ["c"]):
        with pytest.raises(UserCodeError, match=r"the model, given .* raised RuntimeError: inside the model"):
            extract(model, batches(), stages)
        assert fingerprint(model) == before


@pytest.mark.parametrize(
    "wrap", [lambda t: (t, 1), lambda t: [None, t], lambda t: {"aux": t * 0, "out": t}, lambda t: {"z": [t]}]
)
def test_the_first_tensor_of_an_output_counts(wrap):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return wrap(self.inner(x))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = Wrapped()

        def forward(self, x):
            return self.w(x)

    captured = extract(Outer(), batches(), ["w.inner", "w"])
    np.testing.assert_array_equal(captured.features["w"], captured.features["w.inner"])


def test_a_reused_module_gives_one_stage_a_call():
    model = torchvision.models.resnet18(weights=None).eval()
    captured = extract(model, batches(), ["layer1.0.bn1", "layer1.0.relu", "layer1.1.relu#2"], pooling="flatten")
    assert captured.stages == ["layer1.0.bn1", "layer1.0.relu#1", "layer1.0.relu#2", "layer1.1.relu#2"]
    np.testing.assert_allclose(
        captured.features["layer1.0.relu#1"], captured.features["layer1.0.bn1"].clip(min=0), atol=1e-6
    )
    whole = extract(model, batches(), ["layer1.0", "layer1.1"], pooling="flatten").features
    np.testing.assert_array_equal(captured.features["layer1.0.relu#2"], whole["layer1.0"])
    np.testing.assert_array_equal(captured.features["layer1.1.relu#2"], whole["layer1.1"])


def test_the_calls_of_one_module_may_lie_around_another_stage():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.other = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x):
            return self.shared(self.other(self.shared(x)))

    model = Loop()
    captured = extract(model, batches(), ["shared", "other"], pooling="flatten")
    assert captured.stages == ["shared#1", "other", "shared#2"]
    x = torch.cat([x for x, _, _ in batches()])
    with torch.no_grad():
        first = model.shared(x)
        np.testing.assert_allclose(captured.features["shared#1"], first.flatten(1), atol=1e-6)
        np.testing.assert_allclose(captured.features["shared#2"], model.shared(first.relu()).flatten(1), atol=1e-6)
    with pytest.raises(CaptureError, match="called only 2 times"):
        extract(model, batches(), ["shared#3"])
    with pytest.raises(CaptureError, match=r"'shared#1' and 'shared#1' are the same call"):
        extract(model, batches(), ["shared#1", "shared"])


def test_a_path_that_depends_on_the_images_is_refused():
    class Skipping(Net):
        def forward(self, x):
            return self.a(x).mean((2, 3)) if len(x) < 4 else super().forward(x)

    model = Skipping()
    before = fingerprint(model)
    with pytest.raises(CaptureError, match="'b' ran for the first batch and did not for a later one"):
        extract(model, batches(6, batch_size=4), ["a", "b"])
    assert fingerprint(model) == before


def test_torchscript_is_refused_with_the_reason():
    scripted = torch.jit.trace(nn.Sequential(nn.Conv2d(3, 2, 3)).eval(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(CaptureError, match="TorchScript"):
        extract(scripted, batches(), ["0"])
    with pytest.raises(CaptureError, match="'0' is a TorchScript"):
        extract(nn.Sequential(scripted), batches(), ["0"])


def test_autocast_runs_the_pass_in_half_precision():
    model = Net()
    exact = extract(model, batches(), ["a", "c"])
    rough = extract(model, batches(), ["a", "c"], precision=torch.bfloat16)
    for stage in exact.features:
        assert rough.features[stage].dtype == np.float32
        np.testing.assert_allclose(rough.features[stage], exact.features[stage], atol=0.02)
        assert not np.array_equal(rough.features[stage], exact.features[stage])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (["b.3"], "no stage 'b.3' in the model; did you mean 'b.2'"),
        (["unused"], "'unused' was not called"),
        ([], "at least one"),
        ("a", "expected a list"),
        (3, "stages is 3; expected a list"),
        (["a", 3], "expected a list of at least one module name"),
        (["a", "a"], "more than once: a"),
    ],
)
def test_wrong_stages(stages, message):
    model = Net()
    with pytest.raises(CaptureError, match=message):
        extract(model, batches(), stages)
    assert fingerprint(model)[0] == fingerprint(Net())[0]


def test_wrong_data_and_heads():
    model = Net()
    with pytest.raises(CaptureError, match="loader is empty"):
        extract(model, [], ["a"])
    with pytest.raises(CaptureError, match="not among the stages"):
        extract(model, batches(), ["a"], heads={"b": nn.Identity()})
    x = torch.zeros(2, 3, 32, 32)
    x[1, 0, 5, 5] = torch.nan
    with pytest.raises(CaptureError, match="images are not finite for 1 of 2"):
        extract(model, [(x, [0, 1])], ["a"])
    with pytest.raises(CaptureError, match="first dimension must be the samples"):
        extract(
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.Flatten(0)),
            batches(),
            ["1"],
            pooling=lambda r: r.T,
        )


def test_a_compiled_model_is_unwrapped():
    model = Net()
    expected = extract(model, batches(), ["a", "b.0"])
    compiled = torch.compile(model, backend="eager")
    np.testing.assert_array_equal(extract(compiled, batches(), ["b.0"]).features["b.0"], expected.features["b.0"])
    model.b = torch.compile(model.b, backend="eager")
    np.testing.assert_array_equal(extract(model, batches(), ["b.0"]).features["b.0"], expected.features["b.0"])


@pytest.mark.parametrize("images", [torch.bfloat16, torch.float32])
def test_half_precision_becomes_float32(images):
    model = Net().bfloat16()
    x = next(iter(batches()))[0].to(images)
    captured = extract(model, [(x, [0, 1, 2, 0])], ["a"])
    assert captured.features["a"].dtype == np.float32
    with torch.no_grad():
        expected = model.a(x.bfloat16()).float().mean((2, 3)).numpy()
    np.testing.assert_allclose(captured.features["a"], expected, rtol=1e-6)


def test_images_are_cast_only_where_the_parameters_share_one_dtype():
    x = torch.zeros(1, 3, 8, 8)
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    assert as_parameters(x, nn.Linear(2, 2).double()).dtype == torch.float64
    assert as_parameters(x, mixed) is x
    assert as_parameters(x, nn.Identity()) is x
    integers = x.to(torch.uint8)
    assert as_parameters(integers, Net()) is integers


IMAGES = torch.zeros(3, 3, 8, 8)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"picture": IMAGES, "label": [0, 1, 2]}, "found a dict with the keys picture, label"),
        (IMAGES, "found a Tensor without labels; wrap the loader"),
        ((IMAGES,), "without labels"),
        ((IMAGES, [0, 1, 2], [0, 1, 2], ["a", "b", "c"]), "found 4 items"),
        (([[1.0, 2.0]], [0]), "the images must be a tensor"),
        ((torch.tensor(1.0), [0]), "found a single number"),
        ((IMAGES, torch.eye(3)), r"labels must be 3 integers .* found the shape \(3, 3\); turn one-hot rows"),
        ((IMAGES, torch.zeros(3)), r"labels must be 3 integers .* found float32 values"),
        ((IMAGES, torch.zeros(3, dtype=torch.bool)), "found bool values"),
        ((IMAGES, [0, -1, 2]), "labels must be 3 integers .* found -1"),
        ((IMAGES, [0, 1]), r"labels must be 3 integers .* found the shape \(2,\)"),
        ((IMAGES, ["cat", "dog", "cat"]), "labels must be 3 integers .* found .'cat', 'dog', 'cat'"),
        ((IMAGES, None), "labels must be 3 integers .* found None"),
        ((IMAGES, [0, 1, 2], ["a.png", "b.png", "c.png"]), "index must be 3 integers .* found .'a.png'"),
        ((IMAGES, [0, 1, 2], {"path": "a"}), "index must be 3 integers"),
        ((IMAGES, [0, 1, 2], [0.0, 1.0, 2.0]), "index must be 3 integers .* found float32 values"),
    ],
)
def test_a_batch_of_another_form_is_refused_with_what_it_must_be(batch, words):
    form = re.escape("a batch must be (images, labels) or (images, labels, index)")
    with pytest.raises(CaptureError, match=f"{form}.*{words}"):
        extract(Net(), [batch], ["a"])


@pytest.mark.parametrize("labels", [[0, 1, 2], np.arange(3, dtype=np.uint8), torch.arange(3)[:, None], (0, 1, 2)])
def test_labels_may_be_any_integers_one_an_image(labels):
    captured = extract(Net(), [(IMAGES, labels)], ["a"])
    assert captured.labels.dtype == np.int64
    assert captured.labels.tolist() == [0, 1, 2]


def test_batches_that_are_none_or_differ_in_form_are_refused():
    with pytest.raises(CaptureError, match="must come from a loader or a list; found 3"):
        extract(Net(), 3, ["a"])
    with pytest.raises(CaptureError, match="some batches carry an index"):
        extract(Net(), [(IMAGES, [0, 1, 2], [0, 1, 2]), (IMAGES, [0, 1, 2])], ["a"])
    with pytest.raises(CaptureError, match="some batches carry an index"):
        extract(Net(), [(IMAGES, [0, 1, 2]), (IMAGES, [0, 1, 2], [0, 1, 2])], ["a"])


def test_stages_out_of_order_are_refused_with_the_right_order():
    model = Net()
    before = fingerprint(model)
    with pytest.raises(CaptureError, match=r"run in another order than named \(c, a, b\).*\['a', 'b', 'c'\]"):
        extract(model, batches(), ["c", "a", "b"])
    with pytest.raises(CaptureError, match=r"\['b.0', 'b'\]"):
        extract(model, batches(), ["b", "b.0"])
    assert fingerprint(model) == before


def test_class_and_register_tokens_stay_out_of_pooled_tokens():
    tokens = torch.randn(2, 12, 4)
    grid = TokenGrid(12, 1, 2, 5)
    patches = tokens[:, 1:11]
    torch.testing.assert_close(pool(tokens, "mean", grid), patches.mean(1))
    torch.testing.assert_close(pool(tokens, "max", grid), patches.amax(1))
    torch.testing.assert_close(pool(tokens, "flatten", grid), tokens.flatten(1))
    placed = patches.transpose(1, 2).reshape(2, 4, 2, 5)
    torch.testing.assert_close(pool(tokens, "pyramid", grid), pool(placed, "pyramid"))
    torch.testing.assert_close(pool(tokens, "mean", TokenGrid(10, 0, 2, 5)), tokens.mean(1))  # tokens of another layer


def test_a_stage_pooling_says_what_it_leaves_out():
    image = torch.zeros(1, 3, 8, 20)
    patch, others = nn.Conv2d(3, 4, 4, stride=4), torch.zeros(1, 5, 4)

    def to_stage(x):
        return torch.cat([others, patch(x).flatten(2).transpose(1, 2)], dim=1)

    found = StagePooling().at(to_stage, image)
    assert found.note == "mean over the 10 tokens of patches, 5 class or register tokens left out"
    torch.testing.assert_close(found(to_stage(image)), patch(image).mean((2, 3)))
    assert StagePooling().at(patch, image) == StagePooling()
    assert StagePooling("flatten").at(to_stage, image).grid is None
    assert (
        StagePooling("auto")
        .at(to_stage, image)
        .note.endswith("left out, for what the network's head reads is not known")
    )
    unknown = StagePooling().at(lambda x: torch.ones(1, 7, 4), image)
    assert unknown.note.startswith("mean over all tokens, whatever they stand for: 7 tokens do not lie on a grid")
    torch.testing.assert_close(unknown(torch.ones(1, 7, 4)), torch.ones(1, 4))
