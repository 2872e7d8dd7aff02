"""The interface of output distributions, and the sampling settings that they take."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from wavedil.audio.distributions.quantizers import Quantizer
from wavedil.core.schema import Range, checked
from wavedil.errors import WavedilError, with_article

Temperature = Annotated[float, Range(0, 1e9)]
TopK = Annotated[int, Range(1, 2**31 - 1)]
TopP = Annotated[float, Range(0, 1, exclude_low=True)]


class Distribution:
    """Distribution of the next code, computed from the ``num_parameters`` outputs of a model's head.

    To add one, write a subclass with :meth:`nll` and :meth:`sample`, decorate it with :func:`wavedil.weights.register`
    and pass an instance as ``WaveNet(distribution=...)``. The constructor takes the options of the distribution. The
    network calls :meth:`set_quantizer` on a copy, before it reads ``num_parameters``. The ``torch`` engine samples from
    any distribution; the faster engines support those of this package.
    """

    #: Distribution parameters per sample; known after :meth:`set_quantizer`.
    num_parameters: int
    #: Whether the last layer of the head stays out of autocast: bf16 has 8 bits of precision, too few for amplitudes.
    needs_float32 = False
    quantizer: Quantizer

    def __init__(self) -> None:
        """Takes no arguments; subclasses may."""

    def set_quantizer(self, quantizer: Quantizer) -> Self:
        """Sets the quantizer and returns ``self``; extend it to compute values that depend on the codes."""
        self.quantizer = quantizer
        return self

    def nll(self, parameters: Tensor, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Negative log-likelihood in nats of each **code**, so that distributions over the same codes compare.

        Args:
            parameters: ``(batch, num_parameters, time)``.
            codes: int64 ``(batch, time)``.
            mask: bool ``(batch, time)``; False excludes a sample.

        Returns:
            One value per sample that the mask includes, ``(samples,)``; see :func:`flatten_time`.
        """
        raise NotImplementedError

    def log_between(self, parameters: Tensor, first: Tensor, last: Tensor) -> Tensor:
        """Log probability of the codes from ``first`` up to, not including, ``last``, for ``wavedil compress``.

        Args:
            parameters: ``(n, num_parameters)``.
            first, last: int64 ``(n,)``, from 0 to ``num_codes``, ``first < last``.

        Returns:
            float64 ``(n,)``, precise also for small probabilities.
        """
        raise WavedilError(f"{with_article(self)} has no log_between, which compression needs")

    def sample(self, parameters: Tensor, uniforms: Tensor, settings: Sampling) -> Tensor:
        """Draws one code per stream, from exactly **one** uniform number each, so that every engine draws the same.

        Args:
            parameters: ``(batch, num_parameters)``.
            uniforms: float64 ``(batch,)`` in [0, 1).
            settings: temperature and truncation.

        Returns:
            int64 ``(batch,)``.
        """
        raise NotImplementedError

    def prior(self, counts: Tensor) -> Tensor | None:
        """Parameters ``(num_parameters,)`` that fit ``(num_codes,)`` code counts: the head's bias before training.

        None, the default, leaves the bias at its initial value.
        """
        return None

    def check(self, settings: Sampling) -> None:
        """Raises :class:`WavedilError` for settings that this distribution does not support."""


def flatten_time(parameters: Tensor, codes: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """``(batch, parameters, time)`` and ``(batch, time)`` to ``(samples, parameters)`` and ``(samples,)``, masked."""
    rows, targets = parameters.transpose(1, 2).reshape(-1, parameters.shape[1]), codes.reshape(-1)
    return (rows, targets) if mask is None else (rows[mask.reshape(-1)], targets[mask.reshape(-1)])


class Sampling:
    """Sampling settings: temperature and truncation.

    Args:
        temperature: divides the logits: 1 samples from the model, below 1 is more predictable, 0 takes the most likely
            code. In a mixture it also multiplies the scales, and 0 takes the mean of the most likely component.
        top_k: keep the k most likely codes (Fan et al. 2018); categorical distributions only.
        top_p: keep the smallest set of codes with at least this probability (nucleus sampling; Holtzman et al. 2020);
            in a mixture, the central part of the drawn component with this probability.
    """

    @checked
    def __init__(self, temperature: Temperature = 1.0, top_k: TopK | None = None, top_p: TopP | None = None):
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p

    def probabilities(self, logits: Tensor) -> Tensor:
        """``(batch, codes)`` logits to truncated float64 weights, which need not sum to 1."""
        logits = logits.double()
        if self.temperature == 0:
            return F.one_hot(logits.argmax(-1), logits.shape[-1]).double()
        # Subtract the largest logit first: a tiny temperature then gives minus infinity, not infinity - infinity.
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
