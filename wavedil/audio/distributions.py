"""Output distributions: what the head's numbers mean, their likelihood, and how a uniform number picks a sample."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.errors import WavedilError
from wavedil.ops.cross_entropy import cross_entropy


class Distribution:
    """What a head's numbers mean.

    ``parameters`` is how many a sample has. ``nats(parameters, codes, mask=None)`` takes ``(batch, parameters, time)``
    and ``(batch, time)`` codes and gives one negative log-likelihood for each sample, or for each True place of the
    mask, flat. ``sample(parameters, uniforms, settings)`` takes ``(batch, parameters)`` and ``(batch,)`` uniforms in
    [0, 1) to ``(batch,)`` codes: **one** uniform for each sample, so that streams are the same in every engine.
    """

    parameters: int

    def nats(self, parameters: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def sample(self, parameters: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        raise NotImplementedError


class Categorical(Distribution):
    """Softmax over mu-law codes (van den Oord et al. 2016, section 2.2); resolution: one code."""

    def __init__(self, codes: int):
        self.codes = codes
        self.parameters = codes

    def nats(self, logits: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of ``(batch, time)`` codes under ``(batch, codes, time)`` logits.

        Returns a flat tensor: one number for each sample, or for each True place of the mask. Divide by ln 2 for bits.
        """
        rows, targets = logits.transpose(1, 2).reshape(-1, self.codes), codes.reshape(-1)
        if mask is not None:
            keep = mask.reshape(-1)
            rows, targets = rows[keep], targets[keep]
        return cross_entropy(rows, targets)

    def sample(self, logits: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """Inverse-CDF choice: ``(batch, codes)`` logits and ``(batch,)`` uniforms in [0, 1) to ``(batch,)`` codes."""
        probabilities = settings.probabilities(logits)
        cumulative = probabilities.cumsum(-1)
        threshold = uniforms.to(cumulative.dtype) * cumulative[:, -1]
        codes = (cumulative <= threshold.unsqueeze(-1)).sum(-1)
        # Rounding may lift u * sum to the sum itself: then the last code that has any weight.
        last = self.codes - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
        return torch.minimum(codes, last)


class Sampling:
    """Temperature and truncation of a categorical choice.

    Args:
        temperature: divides the logits; 1 samples the model, below 1 is safer and duller, 0 is the most likely code.
        top_k: keep the k most likely codes (Fan et al. 2018).
        top_p: keep the smallest set of codes that holds this probability (nucleus; Holtzman et al. 2020).
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None):
        if not 0 <= temperature < float("inf"):
            raise WavedilError(f"temperature is {temperature}: expected 0 or more, 1 for the model's own distribution")
        if top_k is not None and top_k < 1:
            raise WavedilError(f"top_k is {top_k}: expected at least 1, or none for all codes")
        if top_p is not None and not 0 < top_p <= 1:
            raise WavedilError(f"top_p is {top_p}: expected a probability above 0 and at most 1")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(batch, codes)`` logits to float64 weights, truncated, not necessarily summing to 1."""
        logits = logits.double()
        if self.temperature == 0:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        # Largest logit 0 first: a tiny temperature then divides to minus infinity, not to infinity less infinity.
        probabilities = torch.softmax((logits - logits.amax(-1, keepdim=True)) / self.temperature, -1)
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            kth = probabilities.topk(self.top_k, -1).values[:, -1:]
            probabilities = probabilities * (probabilities >= kth)
        if self.top_p is not None and self.top_p < 1:
            ordered = probabilities.sort(-1, descending=True).values
            before = ordered.cumsum(-1) - ordered
            kept = (before < self.top_p * ordered.sum(-1, keepdim=True)).sum(-1, keepdim=True)
            probabilities = probabilities * (probabilities >= ordered.gather(-1, kept - 1))
        return probabilities
