"""The networks that the survey looks at: every classifier of torchvision, many of timm and of transformers.

All are built with random weights and small images, those of transformers also with small widths.
"""

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Surveyed:
    """A network by its name in a library; ``family`` is how its kin are called, ``size`` that of its images."""

    library: str
    name: str
    family: str
    size: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return f"{self.library}/{self.name}"

    def build(self) -> nn.Module:
        """The network with random weights, in evaluation mode."""
        if self.library == "torchvision":
            from torchvision.models import get_model

            return get_model(self.name, weights=None, num_classes=CLASSES, **self.options).eval()
        if self.library == "timm":
            import timm

            return timm.create_model(self.name, num_classes=CLASSES, **self.options).eval()
        import transformers

        config = getattr(transformers, f"{self.name}Config")(num_labels=CLASSES, **self.options)
        return getattr(transformers, f"{self.name}ForImageClassification")(config).eval()


CLASSES = 5

# ---------------------------------------------------------------------- torchvision

WITHOUT_EXITS = {"aux_logits": False, "init_weights": False}
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "inception_v3": (96, WITHOUT_EXITS),
    "googlenet": (48, WITHOUT_EXITS),
    "maxvit_t": (224, {"input_size": (224, 224)}),  # its windows fit no smaller image
    "vit_h_14": (28, {"image_size": 28}),
    "vision_transformer": (32, {"image_size": 32}),
}
"""Images of other sizes than 32, and what their builders are given besides, by name or by family."""


def torchvision_networks() -> list[Surveyed]:
    """Every classifier that torchvision lists."""
    import torchvision.models

    found = []
    for name in torchvision.models.list_models(module=torchvision.models):
        family = torchvision_family(name)
        size, options = TORCHVISION.get(name) or TORCHVISION.get(family) or (32, {})
        found.append(Surveyed("torchvision", name, family, size, options))
    return found


def torchvision_family(name: str) -> str:
    """The file of torchvision that a builder stands in."""
    from torchvision.models import get_model_builder

    return get_model_builder(name).__module__.rpartition(".")[2]


# ---------------------------------------------------------------------- timm

VIT_SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 6, "num_heads": 4}
AT_64 = {"img_size": 64}
TIMM: dict[str, tuple[str, int, dict[str, Any]]] = {
    "vit_tiny_patch16_224": ("vision transformer", 32, VIT_SMALL),
    "vit_small_patch14_reg4_dinov2": ("vision transformer", 32, VIT_SMALL),
    "deit_tiny_patch16_224": ("deit", 32, VIT_SMALL),
    "deit_tiny_distilled_patch16_224": ("deit", 32, VIT_SMALL),
    "deit3_small_patch16_224": ("deit", 32, VIT_SMALL),
    "beit_base_patch16_224": ("beit", 32, VIT_SMALL),
    "beitv2_base_patch16_224": ("beit", 32, VIT_SMALL),
    "eva02_tiny_patch14_224": ("eva", 32, VIT_SMALL),
    "swin_tiny_patch4_window7_224": ("swin", 64, {**AT_64, "window_size": 4}),
    "swinv2_tiny_window8_256": ("swin", 64, {**AT_64, "window_size": 4}),
    "convnext_atto": ("convnext", 64, {}),
    "convnextv2_atto": ("convnext", 64, {}),
    "efficientnet_b0": ("efficientnet", 32, {}),
    "efficientnet_lite0": ("efficientnet", 32, {}),
    "mobilenetv2_050": ("mobilenet", 32, {}),
    "mobilenetv3_small_050": ("mobilenet", 32, {}),
    "mobilenetv4_conv_small": ("mobilenet", 64, {}),
    "mobilevit_xxs": ("mobilevit", 64, {}),
    "mobilevitv2_050": ("mobilevit", 64, {}),
    "regnetx_002": ("regnet", 32, {}),
    "regnety_002": ("regnet", 32, {}),
    "resnet10t": ("resnet", 32, {}),
    "resnet26d": ("resnet", 32, {}),
    "seresnet50": ("resnet", 32, {}),
    "resnetv2_50": ("resnetv2", 32, {}),
    "resnest14d": ("resnest", 32, {}),
    "res2net50_14w_8s": ("res2net", 32, {}),
    "skresnet18": ("sknet", 32, {}),
    "densenet121": ("densenet", 32, {}),
    "mixer_s32_224": ("mixer", 64, AT_64),
    "resmlp_12_224": ("mixer", 64, AT_64),
    "poolformer_s12": ("poolformer", 64, {}),
    "caformer_s18": ("caformer", 64, {}),
    "pit_ti_224": ("pit", 64, AT_64),
    "pvt_v2_b0": ("pvt", 64, {}),
    "twins_svt_small": ("twins", 64, AT_64),
    "xcit_nano_12_p16_224": ("xcit", 64, AT_64),
    "cait_xxs24_224": ("cait", 64, AT_64),
    "coat_tiny": ("coat", 64, AT_64),
    "coatnet_nano_rw_224": ("coatnet", 64, AT_64),
    "crossvit_tiny_240": ("crossvit", 240, {}),
    "levit_128s": ("levit", 64, AT_64),
    "efficientformerv2_s0": ("efficientformer", 64, AT_64),
    "edgenext_xx_small": ("edgenext", 64, {}),
    "fastvit_t8": ("fastvit", 64, {}),
    "repvgg_a0": ("repvgg", 32, {}),
    "repvit_m0_9": ("repvit", 64, {}),
    "ghostnet_050": ("ghostnet", 32, {}),
    "dla34": ("dla", 32, {}),
    "dpn48b": ("dpn", 32, {}),
    "hrnet_w18_small": ("hrnet", 64, {}),
    "inception_v4": ("inception", 96, {}),
    "xception41": ("xception", 64, {}),
    "nf_regnet_b0": ("nfnet", 32, {}),
    "ese_vovnet19b_dw": ("vovnet", 32, {}),
    "selecsls42": ("selecsls", 64, {}),
    "rexnet_100": ("rexnet", 32, {}),
    "cspresnet50": ("csp", 64, {}),
    "darknet53": ("csp", 64, {}),
    "botnet26t_256": ("byoanet", 64, AT_64),
    "focalnet_tiny_srf": ("focalnet", 64, {}),
    "davit_tiny": ("davit", 64, {}),
    "gcvit_xxtiny": ("gcvit", 64, AT_64),
    "hiera_tiny_224": ("hiera", 64, AT_64),
    "mambaout_femto": ("mambaout", 64, {}),
    "mvitv2_tiny": ("mvit", 64, AT_64),
    "nest_tiny": ("nest", 64, AT_64),
    "tiny_vit_5m_224": ("tiny vit", 224, {}),
    "tnt_s_patch16_224": ("tnt", 64, AT_64),
    "visformer_tiny": ("visformer", 64, AT_64),
    "volo_d1_224": ("volo", 64, AT_64),
    "vgg11": ("vgg", 32, {}),
    "convmixer_768_32": ("convmixer", 64, {}),
    "efficientvit_b0": ("efficientvit", 64, {}),
    "fasternet_t0": ("fasternet", 64, {}),
    "nasnetalarge": ("nasnet", 64, {}),
}


def timm_networks() -> list[Surveyed]:
    """Architectures of timm with their families."""
    return [Surveyed("timm", name, *rest) for name, rest in TIMM.items()]


# ---------------------------------------------------------------------- transformers

TOKENS = {
    "hidden_size": 32,
    "num_hidden_layers": 6,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 32,
    "patch_size": 8,
}
WINDOWS = {
    "image_size": 32,
    "patch_size": 2,
    "embed_dim": 12,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 2],
    "window_size": 4,
}
MAPS = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 2, 1]}
TRANSFORMERS: dict[str, tuple[int, dict[str, Any]]] = {
    "ViT": (32, TOKENS),
    "DeiT": (32, TOKENS),
    "Dinov2": (32, TOKENS),
    "Beit": (32, TOKENS | {"use_relative_position_bias": True}),
    "Swin": (32, WINDOWS),
    "ConvNext": (32, MAPS),
    "ResNet": (32, MAPS | {"embedding_size": 8, "layer_type": "basic"}),
    "MobileViT": (
        64,
        {
            "image_size": 64,
            "hidden_sizes": [16, 20, 24],
            "neck_hidden_sizes": [8, 8, 16, 24, 24, 32, 48],
            "num_attention_heads": 2,
        },
    ),
    "RegNet": (32, MAPS | {"embedding_size": 8, "groups_width": 8}),
    "PoolFormer": (32, {"hidden_sizes": [8, 16, 24, 32]}),
}


def transformers_networks() -> list[Surveyed]:
    """Image classifiers of transformers."""
    return [Surveyed("transformers", name, name, *rest) for name, rest in TRANSFORMERS.items()]


def surveyed_networks() -> list[Surveyed]:
    """All of them."""
    return [*torchvision_networks(), *timm_networks(), *transformers_networks()]


def small_ones_first() -> list[Surveyed]:
    """All of them in the order of their parameters, as torchvision states them; the others are all small."""

    def size(network: Surveyed) -> float:
        if network.library == "torchvision":
            from torchvision.models import get_model_weights

            return float(get_model_weights(network.name).DEFAULT.meta["num_params"])
        return 1e6 if network.library == "transformers" else 6e6

    return sorted(surveyed_networks(), key=size)
