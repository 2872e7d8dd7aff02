"""Layout of the memory that the compiled loop works on: weights, streams' state and buffers, as flat arrays.

Weights, and the inputs of products with them, are stored in 32-bit **words**: see ``formats``, and for weights with
many zeros ``sparse``. A row of int8 inputs ends with its scale, except for the gates, whose scale is constant.

Two threads can share one stream. So the gates' hidden channels, and those of the head, are cut into two **halves**, 0
and 1: each thread computes one half, and a single thread computes both.
"""

from typing import NamedTuple

import numpy as np

from wavedil.audio.generation.engines.cpu.specs import CategoricalSpec, MixtureSpec

#: Columns of ``PackedWeights.layers``. DELAYS is the index of the layer's first delay in ``PackedWeights.delays``, TAPS
#: the number of its taps, the present included. RING is the index of the layer's first slot among the ring buffer slots
#: of all layers, SLOTS the number of its slots, and BLOCK the number of steps for which the products with past inputs
#: are computed at once. The last four are numbers of matrices, -1 if there is none: those for the condition, the past
#: inputs (one per tap), the current input and the residual.
DELAYS, TAPS, RING, SLOTS, BLOCK, CONDITION, PAST, CURRENT, RESIDUAL = range(9)
LAYER_COLUMNS = 9


class Widths(NamedTuple):
    """Numbers of channels, padded to a multiple of the vector width."""

    channels: int
    hidden: int  # of one half
    skip: int
    head: int  # of one half
    outputs: int
    num_parameters: int  # outputs without padding
    condition: int
    layers: int


class PackedWeights(NamedTuple):
    """All matrices in ``words``, and where each begins. Matrices are numbered.

    The inputs of products with channels, condition or skip are complete, and the outputs are ``[half 0 | half 1]``; for
    the gates each half is ``[tanh | sigmoid]``. Two threads have one matrix for each half, half 0 first. So has a
    product whose inputs are cut into halves; its results are added.
    """

    words: np.ndarray  # float32; uint32: pairs of bfloat16; int32: four int8
    starts: np.ndarray  # int64 (matrices,): index of the first word; of a sparse matrix its bitwise complement
    layers: np.ndarray  # int64 (layers, LAYER_COLUMNS)
    delays: np.ndarray  # int64 (past taps of all layers,): oldest tap first
    skip: int
    head: int
    out: int
    tables: np.ndarray  # float32 (taps, codes + 1, channels); (taps, 1, channels) for an AmplitudeEmbeddingPlan
    input_bias: np.ndarray  # float32 (channels,)
    levels: np.ndarray  # float32 (codes + 1,) for an AmplitudeEmbeddingPlan, else empty
    residual_bias: np.ndarray  # float32 (layers, channels)
    skip_bias: np.ndarray
    head_bias: np.ndarray
    out_bias: np.ndarray
    zeros: np.ndarray  # float32 (head,)
    residual_scale: np.float32
    rounded: bool  # words are float32, but inputs of products are rounded to bfloat16
    unit: np.ndarray  # float32 (1,): the scale of gates in int8
    spec: CategoricalSpec | MixtureSpec


class StreamBuffers(NamedTuple):
    """State and scratch memory of the streams of one thread; two threads of one stream share ``sums`` and ``flags``."""

    rings: np.ndarray  # words (slots of all layers, batch, channels): past inputs
    recent: np.ndarray  # int64 (batch, taps): the last codes, oldest first
    x: np.ndarray  # float32 (batch, channels): input of the next layer
    gate_inputs: np.ndarray  # float32 (rows of all layers' blocks, 4 * hidden): each half [tanh | sigmoid]
    row: np.ndarray  # float32 (widest,): one row before it is stored as words
    gates: np.ndarray  # words (half, batch, layers * hidden)
    skips: np.ndarray  # words (batch, skip): input of the head
    head_inputs: np.ndarray  # float32 (batch, 2 * head): hidden layer of the head before its ReLU
    hidden: np.ndarray  # words (half, batch, head): hidden layer of the head
    logits: np.ndarray  # float32 (batch, outputs): the distribution's parameters
    scratch: np.ndarray  # float32 (2, parameters)
    sums: np.ndarray  # float32 (parity of the barrier count, half, batch, widest): results of half products
    flags: np.ndarray  # int64 (2, 8): barrier count of each thread, on separate cache lines
