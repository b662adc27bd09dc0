"""The linear head."""

from torch import Tensor, nn

from lwexplain.models.heads.base import HEADS, pooled
from lwexplain.models.site import Site


@HEADS.register("linear")
class LinearHead(nn.Module):
    """Global average pool and one linear layer."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.classifier = nn.Linear(site.channels, site.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(pooled(features))
