"""Softmax over the codes."""

from typing import Self

import torch
from torch import Tensor

from wavedil.audio.distributions.base import Distribution, Sampling, flatten_time
from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.ops.cross_entropy import IGNORED, cross_entropy
from wavedil.weights import register


@register
class Categorical(Distribution):
    """Softmax over the codes (van den Oord et al. 2016, section 2.2). The parameters are the logits."""

    def set_quantizer(self, quantizer: Quantizer) -> Self:
        self.num_codes = self.num_parameters = quantizer.num_codes
        return super().set_quantizer(quantizer)

    def nll(self, logits: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        if logits.transpose(1, 2).is_contiguous():
            return cross_entropy(*flatten_time(logits, codes, mask))
        # As rows, the logits would be copied, and copied again by the mask.
        nats = cross_entropy(logits, codes if mask is None else codes.masked_fill(~mask, IGNORED))
        return nats.flatten() if mask is None else nats[mask]

    def log_between(self, logits: Tensor, first: Tensor, last: Tensor) -> Tensor:
        codes = torch.arange(self.num_codes, device=logits.device)
        inside = (codes >= first.unsqueeze(1)) & (codes < last.unsqueeze(1))
        logits = logits.double()
        return logits.masked_fill(~inside, -torch.inf).logsumexp(1) - logits.logsumexp(1)

    def sample(self, logits: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """Inverse CDF: the first code whose cumulative probability exceeds the uniform."""
        probabilities = settings.probabilities(logits)
        cumulative = probabilities.cumsum(-1)
        threshold = uniforms.to(cumulative.dtype) * cumulative[:, -1]
        codes = (cumulative <= threshold.unsqueeze(-1)).sum(-1)
        # Rounding can make u * sum equal to the sum: take the last code with a probability above 0.
        last = self.num_codes - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
        return torch.minimum(codes, last)

    def prior(self, counts: Tensor) -> Tensor:
        """Log frequencies, with 1 added to each count."""
        return ((counts + 1) / (counts + 1).sum()).log()
