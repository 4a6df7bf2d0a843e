"""What the networks are trained by: the logistic loss, R1, path lengths, style mixing, blurred beginnings.

Sources: Goodfellow et al. 2014 (the non-saturating loss); Mescheder et al. 2018, Which Training Methods for GANs do
actually Converge? (R1, equation 9); Karras et al. 2019, A Style-Based Generator Architecture (mixing); Karras et al.
2020, Analyzing and Improving the Image Quality of StyleGAN (path lengths, equation 4; lazy regularisation, appendix B);
Karras et al. 2021, Alias-Free GANs (blurred beginnings of configuration R, appendix D).

Losses are means over images, so the mean over micro-batches of equal size is the loss of the whole batch. Two things
are kept independent of the micro-batch where published code is not: the layer at which styles are mixed is each image's
own, and the moving average that path lengths are compared with is taken as it was before the step.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

PL_DECAY = 0.01  # of the moving average of path lengths
BLUR_RADIUS = 3  # of the blur's kernel, in standard widths

Report = Callable[[str, torch.Tensor], None]


@dataclass(frozen=True)
class Latents:
    """What images are made of.

    Attributes:
        z: (N, z_dim) latents.
        other: (N, z_dim) latents to mix in, or None.
        cutoff: (N,) the layer from which on the others style, num_ws where none does; None without others.
        c: (N, c_dim) labels, or None.
    """

    z: torch.Tensor
    other: torch.Tensor | None
    cutoff: torch.Tensor | None
    c: torch.Tensor | None

    def part(self, chosen: slice) -> "Latents":
        """Return those that `chosen` takes."""
        parts = [None if t is None else t[chosen] for t in (self.z, self.other, self.cutoff, self.c)]
        return Latents(*parts)  # type: ignore[arg-type]


def draw_latents(
    G: Any, count: int, mixing_prob: float, generator: torch.Generator, labels: torch.Tensor | None = None
) -> Latents:
    """Return latents of `count` images for `G`, drawn by `generator` on its device.

    With probability `mixing_prob` an image is styled by other latents from a layer on, 1 to num_ws - 1, that is drawn
    for each image.
    """
    device = generator.device
    z = torch.randn(count, G.z_dim, generator=generator, device=device)
    if not mixing_prob:
        return Latents(z, None, None, labels)
    other = torch.randn(count, G.z_dim, generator=generator, device=device)
    cutoff = torch.randint(1, G.num_ws, (count,), generator=generator, device=device)
    mixes = torch.rand(count, generator=generator, device=device) < mixing_prob
    return Latents(z, other, torch.where(mixes, cutoff, G.num_ws), labels)


def styles(G: Any, latents: Latents, update_averages: bool = False) -> torch.Tensor:
    """Return ws (N, num_ws, w_dim) of `latents`, mixed as they say; only the first ones count for the averages."""
    ws = G.mapping(latents.z, latents.c, update_averages=update_averages)
    if latents.other is None or latents.cutoff is None:
        return ws
    others = G.mapping(latents.other, latents.c, update_averages=False)
    layer = torch.arange(ws.shape[1], device=ws.device)
    return torch.where((layer < latents.cutoff[:, None])[:, :, None], ws, others)


def real_images(pixels: torch.Tensor) -> torch.Tensor:
    """Return images (N, C, R, R) float32 of -1 to 1 for `pixels` uint8."""
    return pixels.to(torch.float32) / 127.5 - 1


def blurred(images: torch.Tensor, sigma: float) -> torch.Tensor:
    """Return `images` (N, C, R, R) convolved by 2^-(x / sigma)^2 along both axes, with nothing beyond the borders."""
    radius = math.floor(sigma * BLUR_RADIUS)
    if radius < 1:
        return images
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=torch.float32)
    kernel = torch.exp2(-((offsets / sigma) ** 2))
    kernel = (kernel / kernel.sum()).to(images.dtype)
    flat = images.flatten(0, 1)[:, None]  # (N C, 1, R, R)
    flat = F.conv2d(flat, kernel[None, None, :, None], padding=(radius, 0))
    return F.conv2d(flat, kernel[None, None, None, :], padding=(0, radius)).view_as(images)


def blur_sigma(initial: float, fade_kimg: float, images: int) -> float:
    """Return the blur in px after `images`: from `initial` it fades linearly to none over `fade_kimg`."""
    return max(1 - images / (fade_kimg * 1000), 0) * initial if fade_kimg else 0.0


def gradient_penalty(images: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return (N,) the squared norm of each image's gradient of its logit, differentiable (R1 without its gamma / 2)."""
    (gradients,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradients.square().sum([1, 2, 3])


def path_lengths(images: torch.Tensor, ws: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Return (N,) how far `images` move when their `ws` do: |J^T y|, the root of its mean square over the layers.

    Args:
        images: (N, C, R, R), made of `ws`.
        ws: (N, num_ws, w_dim).
        noise: (N, C, R, R) standard normal y; it is divided by the root of the number of pixels here.
    """
    direction = noise / math.sqrt(images.shape[2] * images.shape[3])
    (gradients,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    return gradients.square().sum(2).mean(1).sqrt()


@dataclass
class Losses:
    """The losses of both networks, by phase; each accumulates the gradients of one micro-batch.

    Attributes:
        G: the generator, and `synthesis` what is called for its images in the main phases, compiled or not.
        synthesis: see G.
        D: the discriminator, and `judge` what is called for its logits in the main phases, compiled or not.
        judge: see D.
        augment: what the discriminator sees everything through, or None.
        report: is told every score and loss.
        signs: (2,) float64: how many real images were judged since it was last zeroed, and the sum of their scores'
            signs.
        lengths: (2,) float64: the same of path lengths.
        r1_gamma: weight of R1.
        pl_weight: weight of path lengths; 0 for StyleGAN3.
        noise_mode: of the generator.
    """

    G: Any
    synthesis: Callable[..., torch.Tensor]
    D: Any
    judge: Callable[..., torch.Tensor]
    augment: Any
    report: Report
    signs: torch.Tensor
    lengths: torch.Tensor
    r1_gamma: float
    pl_weight: float
    noise_mode: str = "random"

    def seen(self, images: torch.Tensor, sigma: float) -> torch.Tensor:
        """Return `images` as the discriminator sees them."""
        images = blurred(images, sigma)
        return images if self.augment is None else self.augment(images)

    def generator_main(self, latents: Latents, sigma: float, gain: float) -> None:
        """Accumulate the generator's gradients of softplus(-D(G(z)))."""
        images = self.synthesis(styles(self.G, latents), noise_mode=self.noise_mode)
        logits = self.judge(self.seen(images, sigma), latents.c)
        loss = F.softplus(-logits)
        self.report("Loss/scores/fake", logits)
        self.report("Loss/signs/fake", logits.sign())
        self.report("Loss/G/loss", loss)
        (loss.mean() * gain).backward()

    def generator_paths(self, latents: Latents, mean_length: torch.Tensor, gain: float) -> None:
        """Accumulate the generator's gradients of pl_weight (|J^T y| - a)^2, where a is the `mean_length` () so far.

        It takes the first half of `latents`: this costs more memory than the main loss.
        """
        half = latents.part(slice(0, max(len(latents.z) // 2, 1)))
        ws = styles(self.G, half)
        images = self.G.synthesis(ws, noise_mode=self.noise_mode)
        lengths = path_lengths(images, ws, torch.randn_like(images))
        penalty = (lengths - mean_length).square()
        self.lengths[0] += len(lengths)
        self.lengths[1] += lengths.detach().sum()
        self.report("Loss/pl_penalty", penalty)
        self.report("Loss/G/reg", penalty * self.pl_weight)
        (penalty.mean() * (self.pl_weight * gain)).backward()

    def discriminator_main(
        self, latents: Latents, pixels: torch.Tensor, c: torch.Tensor | None, sigma: float, gain: float
    ) -> None:
        """Accumulate the discriminator's gradients of softplus(D(G(z))) + softplus(-D(x)).

        The two terms go back one after the other, so that one graph is held at a time.
        """
        with torch.no_grad():
            ws = styles(self.G, latents, update_averages=True)
            images = self.synthesis(ws, noise_mode=self.noise_mode, update_averages=True)
        logits = self.judge(self.seen(images, sigma), latents.c)
        fake_loss = F.softplus(logits)
        self.report("Loss/scores/fake", logits)
        self.report("Loss/signs/fake", logits.sign())
        (fake_loss.mean() * gain).backward()
        logits = self.judge(self.seen(real_images(pixels), sigma), c)
        real_loss = F.softplus(-logits)
        self._report_real(logits)
        self.report("Loss/D/loss", fake_loss.detach() + real_loss.detach())
        (real_loss.mean() * gain).backward()

    def discriminator_r1(self, pixels: torch.Tensor, c: torch.Tensor | None, sigma: float, gain: float) -> None:
        """Accumulate the discriminator's gradients of r1_gamma / 2 |dD(x) / dx|^2, x being the image as it was read."""
        images = real_images(pixels).requires_grad_()
        logits = self.D(self.seen(images, sigma), c)
        self._report_real(logits)
        penalty = gradient_penalty(images, logits)
        loss = penalty * (self.r1_gamma / 2)
        self.report("Loss/r1_penalty", penalty)
        self.report("Loss/D/reg", loss)
        (loss.mean() * gain).backward()

    def _report_real(self, logits: torch.Tensor) -> None:
        signs = logits.detach().sign()
        self.signs[0] += len(signs)
        self.signs[1] += signs.sum()
        self.report("Loss/scores/real", logits)
        self.report("Loss/signs/real", signs)


@contextmanager
def training(module: torch.nn.Module) -> Iterator[None]:
    """Have the weights of `module` get gradients while the body runs; those of the other network do without."""
    module.requires_grad_(True)
    try:
        yield
    finally:
        module.requires_grad_(False)
