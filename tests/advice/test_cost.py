"""FLOPs are those of the closed form."""

from torch import nn


def test_flops_of_attention_are_those_of_the_closed_form():
    """Projections 2 T D (3 D) and 2 T D D, scores and their weighting 2 T T D each."""
    from lwexplain.advice.cost import measure_costs

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

        def forward(self, x):
            tokens = x.flatten(2).transpose(1, 2)
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    tokens, width = 9, 16
    expected = 2 * tokens * width * 3 * width + 2 * tokens * width * width + 2 * (2 * tokens * tokens * width)
    assert measure_costs([Attention().eval()], (16, 3, 3))[0].flops == expected
