"""Low-pass filters of StyleGAN3.

Every layer of an alias-free generator is an operation on a continuous signal that its samples stand for. What keeps
that true are low-pass filters designed for each layer's cutoff and transition band, windowed by a Kaiser window
(Karras et al., Alias-Free Generative Adversarial Networks, 2021, section 3 and appendix C, https://arxiv.org/abs/2106.12423).
"""

import math

import numpy as np
import torch


def kaiser_window(taps: int, width: float) -> np.ndarray:
    """Return the window, (taps,) float64, of a filter whose transition is `width` wide.

    `width` is a share of half the sampling rate. Kaiser's formulas for the attenuation that so many taps reach, in dB,
    and for the window's parameter that gives it; the same as scipy's kaiser_atten and kaiser_beta.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * width + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    return np.kaiser(taps, beta)


def lowpass_filter(taps: int, cutoff: float, half_width: float, rate: float, radial: bool = False) -> torch.Tensor:
    """Return a low-pass filter of sum 1, (taps,) float32, or (taps, taps) if `radial`.

    The ideal response is a sinc, or for a rotationally symmetric one the jinc, J1(2 pi fc r) / (pi r) with `fc` the
    cutoff; it is multiplied by a Kaiser window (by the window's outer product with itself).

    Args:
        taps: how many; even, so that a jinc is never asked for at its centre.
        cutoff: the frequency at which half of the amplitude passes, in cycles per unit length, as all below.
        half_width: half of the transition band.
        rate: samples per unit length.
        radial: whether the response depends on the direction of a frequency (Karras et al. 2021, appendix C).
    """
    window = kaiser_window(taps, 2 * half_width / (rate / 2))
    place = (np.arange(taps) - (taps - 1) / 2) / rate
    if radial:
        distance = np.hypot(*np.meshgrid(place, place))
        bessel = torch.special.bessel_j1(torch.from_numpy(2 * math.pi * cutoff * distance)).numpy()
        response = bessel / (math.pi * distance) * np.outer(window, window)
    else:
        response = np.sinc(2 * cutoff * place) * window
    return torch.from_numpy(response / response.sum()).to(torch.float32)
