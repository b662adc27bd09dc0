"""Where in a staged network something sits: what a head or a local loss is built from."""

from dataclasses import dataclass

from lwexplain.models.token_reading import TokenPooling
from lwexplain.models.tokens import TokenGrid


@dataclass(frozen=True)
class Site:
    """The place after stage ``depth`` (from 1) of a network.

    ``shapes`` are those of the features of every stage without the batch dimension: (C, H, W), tokens (T, D) or
    (D,); ``image_shape`` is (C, H, W). Of tokens here ``grid`` says where the patches are, and ``tokens`` what the
    network's own head would read of them; both None for other features, and where nothing tells it.
    """

    image_shape: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    depth: int
    num_classes: int
    grid: TokenGrid | None = None
    tokens: TokenPooling | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the features here."""
        return self.shapes[self.depth - 1]

    @property
    def following(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the stages that follow."""
        return self.shapes[self.depth :]

    @property
    def last(self) -> bool:
        """True after the last stage."""
        return self.depth == len(self.shapes)

    @property
    def channels(self) -> int:
        """Size of the features once they are pooled over positions."""
        parts = 1 if self.tokens is None else self.tokens.parts
        return self.shape[0] if len(self.shape) == 3 else parts * self.shape[-1]
