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
    mask, flat: of the **code**, so that the bits per sample of all distributions over the same quantizer's codes can be
    compared. ``sample(parameters, uniforms, settings)`` takes ``(batch, parameters)`` and ``(batch,)`` uniforms in
    [0, 1) to ``(batch,)`` codes: **one** uniform for each sample, so that streams are the same in every engine.
    ``prior(counts)`` makes the parameters that fit ``(codes,)`` counts, whatever came before. ``check(settings)``
    refuses settings that mean nothing here.
    """

    num_parameters: int
    #: Whether rounding the parameters to bf16 would be heard, so that the head's last product is left out of autocast.
    needs_float32 = False

    def nll(self, parameters: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def sample(self, parameters: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        raise NotImplementedError

    def prior(self, counts: Tensor) -> Tensor:
        raise NotImplementedError

    def check(self, settings: Sampling) -> None: ...


class Categorical(Distribution):
    """Softmax over codes (van den Oord et al. 2016, section 2.2)."""

    def __init__(self, num_codes: int):
        self.num_codes = num_codes
        self.num_parameters = num_codes

    def nll(self, logits: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of ``(batch, time)`` codes under ``(batch, codes, time)`` logits.

        Returns a flat tensor: one number for each sample, or for each True place of the mask. Divide by ln 2 for bits.
        """
        return cross_entropy(*flat(logits, codes, mask))

    def sample(self, logits: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """Inverse-CDF choice: ``(batch, codes)`` logits and ``(batch,)`` uniforms in [0, 1) to ``(batch,)`` codes."""
        probabilities = settings.probabilities(logits)
        cumulative = probabilities.cumsum(-1)
        threshold = uniforms.to(cumulative.dtype) * cumulative[:, -1]
        codes = (cumulative <= threshold.unsqueeze(-1)).sum(-1)
        # Rounding may lift u * sum to the sum itself: then the last code that has any weight.
        last = self.num_codes - 1 - (probabilities.flip(-1) > 0).int().argmax(-1)
        return torch.minimum(codes, last)

    def prior(self, counts: Tensor) -> Tensor:
        """Logits of the frequencies, each code seen once more than it was."""
        return ((counts + 1) / (counts + 1).sum()).log()


def flat(parameters: Tensor, codes: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(batch, parameters, time)`` and ``(batch, time)`` as rows, those of True places of the mask alone."""
    rows, targets = parameters.transpose(1, 2).reshape(-1, parameters.shape[1]), codes.reshape(-1)
    return (rows, targets) if mask is None else (rows[mask.reshape(-1)], targets[mask.reshape(-1)])


class Sampling:
    """Temperature and truncation of the choice of a sample.

    Args:
        temperature: divides the logits; 1 samples the model, below 1 is safer and duller, 0 is the most likely code. Of
            a mixture it also multiplies the scales, and 0 is the mean of the likeliest component.
        top_k: keep the k most likely codes (Fan et al. 2018); categorical heads only.
        top_p: keep the smallest set of codes that holds this probability (nucleus; Holtzman et al. 2020); of a mixture,
            the middle of the drawn component that holds this probability.
    """

    def __init__(self, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None):
        if not 0 <= temperature < float("inf"):
            raise WavedilError(f"temperature is {temperature}: expected 0 or more, 1 for the model's own distribution")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise WavedilError(f"top_k is {top_k}: expected an integer of at least 1, or none for all codes")
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
