"""What the head of a network reads of its tokens is found by what its logits depend on."""

import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from lwexplain.capture.extract import extract
from lwexplain.capture.pooling import StagePooling, pool
from lwexplain.errors import CaptureError
from lwexplain.models.token_reading import UNKNOWN, TokenPooling, TokenReading, read_by_head
from lwexplain.models.tokens import TokenGrid

SMALL = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
HF = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}


def timm_model(arch, **options):
    torch.manual_seed(0)
    return timm.create_model(arch, **SMALL | options)


def hugging_face(name, **options):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**HF | options)
    return getattr(transformers, f"{name}ForImageClassification")(config)


def swin():
    options = {"window_size": 4, "depths": (1, 1), "num_heads": (1, 2), "embed_dim": 24}
    return timm.create_model("swin_tiny_patch4_window7_224", img_size=32, num_classes=5, **options)


class NoGrad(nn.Module):
    """A network whose forward never keeps a graph, and returns its logits in a mapping."""

    def __init__(self):
        super().__init__()
        self.network = timm_model("vit_tiny_patch16_224")

    @torch.no_grad()
    def forward(self, x):
        return {"logits": self.network(x)}


NETWORKS = {
    "ViT": (lambda: timm_model("vit_tiny_patch16_224"), "blocks.1", "cls", lambda t: t[:, 0]),
    "ViT, pooled": (
        lambda: timm_model("vit_tiny_patch16_224", global_pool="avg"),
        "blocks.0",
        "mean",
        lambda t: t[:, 1:].mean(1),
    ),
    "DeiT, distilled": (
        lambda: timm_model("deit_tiny_distilled_patch16_224"),
        "blocks.1",
        "cls",
        lambda t: t[:, :2].flatten(1),
    ),
    "ViT with registers": (
        lambda: timm_model("vit_small_patch14_reg4_dinov2"),
        "blocks.1",
        "cls",
        lambda t: t[:, 0],
    ),
    "BEiT of timm": (lambda: timm_model("beit_base_patch16_224"), "blocks.1", "mean", lambda t: t[:, 1:].mean(1)),
    "torchvision": (
        lambda: VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5),  # its classifier starts from zeros
        "encoder.layers.encoder_layer_1",
        "cls",
        lambda t: t[:, 0],
    ),
    "no graph, a mapping": (NoGrad, "network.blocks.0", "cls", lambda t: t[:, 0]),
    "DINOv2": (
        lambda: hugging_face("Dinov2"),
        "dinov2.layernorm",
        "cls+mean",
        lambda t: torch.cat([t[:, 0], t[:, 1:].mean(1)], 1),
    ),
    "BEiT": (lambda: hugging_face("Beit"), "beit.layernorm", "mean", lambda t: t[:, 1:].mean(1)),
    "BEiT, class token": (
        lambda: hugging_face("Beit", use_mean_pooling=False),
        "beit.layernorm",
        "cls",
        lambda t: t[:, 0],
    ),
}


def images_and_outputs(model, stage):
    """Images with the stage's own output for them, by a hook."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found = []
    handle = model.get_submodule(stage).register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        model.eval()(images)
    handle.remove()
    return images, found[0] if isinstance(found[0], torch.Tensor) else found[0][0]


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_networks_own_head_reads(name):
    build, stage, kind, by_hand = NETWORKS[name]
    model = build()
    images, raw = images_and_outputs(model, stage)
    model.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    reading = read_by_head(model, (3, 32, 32))
    assert reading.known
    assert reading.kind == kind
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    captured = extract(model, [(images, torch.arange(3))], [stage])
    assert captured.reading == reading
    torch.testing.assert_close(torch.from_numpy(captured.features[stage]), by_hand(raw), rtol=1e-6, atol=1e-6)
    again = StagePooling("auto", reading=reading).at(lambda x: images_and_outputs_of(model, stage, x), images[:1])
    assert torch.equal(again(raw), torch.from_numpy(captured.features[stage]))


def images_and_outputs_of(model, stage, images):
    found = []
    handle = model.get_submodule(stage).register_forward_hook(lambda _m, _i, output: found.append(output))
    model.eval()(images)
    handle.remove()
    return found[0] if isinstance(found[0], torch.Tensor) else found[0][0]


def test_maps_are_averaged_whatever_order_they_lie_in():
    model = swin()
    images, raw = images_and_outputs(model, "layers.0")
    captured = extract(model, [(images, torch.arange(3))], ["layers.0"])
    torch.testing.assert_close(torch.from_numpy(captured.features["layers.0"]), raw.mean((1, 2)))
    with pytest.raises(CaptureError, match=r"stage 'layers.0': pooling 'cls' .* maps .* use pooling='auto'"):
        extract(model, [(images, torch.arange(3))], ["layers.0"], pooling="cls")


def test_a_class_token_that_no_head_reads_can_be_asked_for():
    model = timm_model("vit_tiny_patch16_224", global_pool="avg")
    images, raw = images_and_outputs(model, "blocks.1")
    for pooling, expected in (
        ("cls", raw[:, 0]),
        ("cls+mean", torch.cat([raw[:, 0], raw[:, 1:].mean(1)], 1)),
        ("mean", raw[:, 1:].mean(1)),
    ):
        captured = extract(model, [(images, torch.arange(3))], ["blocks.1"], pooling=pooling)
        torch.testing.assert_close(torch.from_numpy(captured.features["blocks.1"]), expected)


GRID = TokenGrid(count=18, start=2, height=4, width=4)


@pytest.mark.parametrize(
    ("pooling", "reading", "note"),
    [
        (
            "auto",
            TokenReading((0,), False, 2),
            "class token, 1 register token left out, as the network's head reads it",
        ),
        ("auto", TokenReading((0, 1), False, 2), "2 class tokens side by side, as the network's head reads them"),
        (
            "auto",
            TokenReading((), True, 2),
            "mean over the 16 tokens of patches, 2 class or register tokens left out, as the network's head reads them",
        ),
        (
            "auto",
            TokenReading((0,), True, 2),
            "class token and mean over the 16 tokens of patches, 1 register token left out, as the network's head "
            "reads them",
        ),
        (
            "auto",
            UNKNOWN,
            "mean over the 16 tokens of patches, 2 class or register tokens left out, for what the network's head "
            "reads is not known",
        ),
        ("cls", UNKNOWN, "class token, 1 register token left out, the first of those that are no patches"),
        ("mean", UNKNOWN, "mean over the 16 tokens of patches, 2 class or register tokens left out"),
    ],
)
def test_the_note_says_what_was_taken(pooling, reading, note):
    found = StagePooling(pooling, GRID, reading=reading)
    assert found.what_is_read(GRID) == note
    tokens = torch.randn(2, 18, 3)
    assert found(tokens).shape == (2, 3 * (len(note.split("2 class tokens side")) + (" and mean" in note)))


def test_a_stage_with_other_tokens_than_those_read_is_averaged():
    reading = TokenReading((0,), False, 1)
    assert reading.pooling(TokenGrid(16, 0, 4, 4)) == TokenPooling((), 0, 16)  # no class token here yet
    assert reading.pooling(TokenGrid(17, 1, 4, 4)) == TokenPooling((0,), 1, 0)


@pytest.mark.parametrize("grid", [None, TokenGrid(16, 0, 4, 4)])
def test_no_class_token_is_an_error_that_names_the_mend(grid):
    with pytest.raises(CaptureError, match="use pooling='auto'"):
        pool(torch.randn(2, 16, 3), "cls", grid)


def test_a_network_without_logits_or_tokens_is_unknown():
    assert read_by_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(3600, 2)), (3, 32, 32)) == UNKNOWN
    assert read_by_head(nn.Identity(), (3, 32, 32)) == UNKNOWN
