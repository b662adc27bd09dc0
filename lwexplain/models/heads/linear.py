"""The linear head."""

from torch import Tensor, nn

from lwexplain.models.heads.base import HEADS, pooled
from lwexplain.models.site import Site


@HEADS.register("linear")
class LinearHead(nn.Module):
    """Global average pool and one linear layer; of tokens it takes those that the network's own head reads."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.tokens = site.tokens
        self.classifier = nn.Linear(site.channels, site.num_classes)

    def forward(self, features: Tensor) -> Tensor:
        return self.classifier(pooled(features, self.tokens))
