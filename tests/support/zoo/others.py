"""Nets of other kinds: generative, implicit, gated, factored, weights made by weights."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap

from support.zoo.entry import Entry, floats

__all__ = ["OTHERS"]


class VAE(nn.Module):
    """Encoder, mean and log variance, decoder; the draw is the mean in eval mode. Three results."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.mu, self.logvar = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.fc3, self.fc4 = nn.Linear(3, 8), nn.Linear(8, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = F.relu(self.fc1(x))
        mu, logvar = self.mu(h), self.logvar(h)
        return self.fc4(F.relu(self.fc3(mu))).sigmoid(), mu, logvar


class Coupling(nn.Module):
    """RealNVP: half of the variables are scaled and moved by what the other half says; and a log-determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6)) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for net in self.nets:
            a, b = x.chunk(2, -1)
            scale, shift = net(a).chunk(2, -1)
            x = torch.cat([b * scale.tanh().exp() + shift, a], -1)
            total = total + scale.tanh().sum(-1)
        return x, total


class MaskedLinear(nn.Linear):
    """A layer with a mask of its own (MADE)."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.register_buffer("own_mask", torch.ones(out, into).tril())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.own_mask, self.bias)


class Hyper(nn.Module):
    """A net that makes another's weights."""

    def __init__(self) -> None:
        super().__init__()
        self.maker, self.out = nn.Linear(4, 6 * 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        weights = self.maker(z).view(-1, 8, 6)
        return self.out(torch.einsum("noi,ni->no", weights, x).relu())


class MoE(nn.Module):
    """Each example goes to its best two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 3)) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.gate(x).softmax(-1).topk(2, -1)
        y = x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            rows, place = (chosen == i).nonzero(as_tuple=True)
            y = y.index_add(0, rows, weight[rows, place, None] * expert(x[rows]))
        return y


class SoftMoE(nn.Module):
    """All experts, in one batched product."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 4)
        self.w1, self.w2 = nn.Parameter(0.4 * torch.randn(4, 6, 8)), nn.Parameter(0.4 * torch.randn(4, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("neh,eho->neo", torch.einsum("ni,eih->neh", x, self.w1).relu(), self.w2)
        return (self.gate(x).softmax(-1)[..., None] * y).sum(1)


class LoRA(nn.Module):
    """A frozen layer and a learned product of two thin ones."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.out = nn.Linear(8, 8).requires_grad_(False), nn.Linear(8, 3)
        self.a, self.b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.base(x) + x @ self.a.T @ self.b.T).relu())


class TiedAutoencoder(nn.Module):
    """The decoder's weight is the encoder's, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.bias = nn.Linear(12, 6), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x).relu(), self.encoder.weight.T, self.bias)


class KAN(nn.Module):
    """Learned functions on edges: a base and radial bumps."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.base, self.spline = nn.Linear(into, out), nn.Linear(5 * into, out, bias=False)
        self.register_buffer("grid", torch.linspace(-2, 2, 5))

    def forward(self, x: Tensor) -> Tensor:
        bumps = torch.exp(-((x[..., None] - self.grid) ** 2))
        return self.base(F.silu(x)) + self.spline(bumps.flatten(-2))


class Capsules(nn.Module):
    """Votes of capsules, routed by agreement."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.weight = nn.Conv2d(1, 8, 3, 2), nn.Parameter(0.3 * torch.randn(3, 18, 4, 5))

    def squash(self, x: Tensor) -> Tensor:
        norm = (x**2).sum(-1, keepdim=True)
        return norm / (1 + norm) * x / (norm + 1e-6).sqrt()

    def forward(self, x: Tensor) -> Tensor:
        u = self.squash(self.primary(x).view(len(x), -1, 4))
        votes = torch.einsum("cipo,nip->ncio", self.weight, u)
        logits = torch.zeros(votes.shape[:3])
        for _ in range(2):
            v = self.squash((logits.softmax(1)[..., None] * votes).sum(2))
            logits = logits + (votes * v[:, :, None]).sum(-1)
        return v.norm(dim=-1)


class NeRF(nn.Module):
    """Places encoded as waves, a skip, density and colour."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.sigma, self.rgb = nn.Linear(15, 16), nn.Linear(31, 16), nn.Linear(16, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        waves = torch.cat([x, *(f(2.0**i * x) for i in range(2) for f in (torch.sin, torch.cos))], -1)
        y = self.b(torch.cat([self.a(waves).relu(), waves], -1)).relu()
        return torch.cat([self.rgb(y).sigmoid(), self.sigma(y).relu()], -1)


class SIREN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.sin(3 * self.b(torch.sin(3 * self.a(x)))))


class Energy(nn.Module):
    """Forces: the forward differentiates an energy."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return -torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


class PINN(nn.Module):
    """The residual of a heat equation, with second derivatives."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            first = torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]
            second = torch.autograd.grad(first[:, 1].sum(), x, create_graph=True)[0]
        return first[:, 0] - 0.1 * second[:, 1]


class Tangent(nn.Module):
    """A derivative along a direction, forward mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        return jvp(self.net, (x,), (torch.ones_like(x),))[1]


class Trace(nn.Module):
    """The trace of each example's Jacobian, by ``vmap``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return vmap(lambda row: torch.func.jacrev(self.net)(row).diagonal().sum())(x)


class Ensemble(nn.Module):
    """Several nets at once, by ``vmap`` over stacked weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(0.5 * torch.randn(4, 8, 6)), nn.Parameter(torch.randn(4, 8))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = vmap(lambda w, b: F.linear(x, w, b).relu())(self.w, self.b)
        return self.out(y).mean(0)


class Meta(nn.Module):
    """One step of learning on a support set within the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(6, 3)

    def forward(self, x: Tensor, support: Tensor) -> Tensor:
        with torch.enable_grad():
            loss = self.net(support).square().mean()
            weight = dict(self.net.named_parameters())
            steps = torch.autograd.grad(loss, list(weight.values()), create_graph=True)
        moved = {name: w - 0.1 * g for (name, w), g in zip(weight.items(), steps, strict=True)}
        return functional_call(self.net, moved, (x,))


class Implicit(nn.Module):
    """A fixed point of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u, self.out = nn.Linear(8, 8), nn.Linear(6, 8, bias=False), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = x.new_zeros(len(x), 8)
        for _ in range(5):
            z = torch.tanh(0.2 * self.w(z) + self.u(x))
        return self.out(z)


class ODE(nn.Module):
    """Four Runge-Kutta steps of a net."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        for step in range(4):
            t = torch.full((len(x), 1), 0.25 * step)
            half = x + 0.125 * self.f(torch.cat([x, t], -1))
            x = x + 0.25 * self.f(torch.cat([half, t + 0.125], -1))
        return x


class FiLM(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.film, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(4, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        gain, shift = self.film(c)[..., None, None].chunk(2, 1)
        return self.fc((self.conv(x) * (1 + gain) + shift).relu().mean((2, 3)))


class Multitask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.heads = nn.Linear(6, 8), nn.ModuleDict({"a": nn.Linear(8, 3), "b": nn.Linear(8, 2)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x).relu()
        return {name: head(y) for name, head in self.heads.items()}


class Quantizer(nn.Module):
    """VQ: the nearest of a codebook's entries, straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out, self.codes = nn.Linear(6, 4), nn.Linear(4, 6), nn.Embedding(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.into(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        return self.out(z + (q - z).detach())


class FFTConv(nn.Module):
    """Spectral convolution of a Fourier neural operator, real weights for real and imaginary parts."""

    def __init__(self) -> None:
        super().__init__()
        self.re, self.im = nn.Parameter(0.3 * torch.randn(4, 4, 3)), nn.Parameter(0.3 * torch.randn(4, 4, 3))
        self.lift, self.out = nn.Conv1d(1, 4, 1), nn.Conv1d(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        f = torch.fft.rfft(x)[..., :3]
        y = torch.complex(
            torch.einsum("nik,iok->nok", f.real, self.re) - torch.einsum("nik,iok->nok", f.imag, self.im),
            torch.einsum("nik,iok->nok", f.real, self.im) + torch.einsum("nik,iok->nok", f.imag, self.re),
        )
        return self.out(F.gelu(torch.fft.irfft(y, n=x.shape[-1])) + x)


class Checkpointed(nn.Module):
    """Half of it is recomputed in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.utils.checkpoint.checkpoint(self.a, x, use_reentrant=False))


def _two(a: tuple[int, ...], b: tuple[int, ...]) -> object:
    return lambda n: (torch.randn(n, *a), torch.randn(n, *b))


def _spectral() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))


SIX = floats(6)
OTHERS: dict[str, Entry] = {
    "VAE": Entry(VAE, floats(12)),
    "RealNVP": Entry(Coupling, SIX),
    "MADE": Entry(lambda: nn.Sequential(MaskedLinear(6, 8), nn.ReLU(), MaskedLinear(8, 6)), SIX),
    "hypernetwork": Entry(Hyper, _two((6,), (4,))),
    "MoE": Entry(MoE, SIX),
    "soft MoE": Entry(SoftMoE, SIX),
    "LoRA": Entry(LoRA, floats(8)),
    "tied autoencoder": Entry(TiedAutoencoder, floats(12)),
    "KAN": Entry(lambda: nn.Sequential(KAN(4, 6), KAN(6, 3)), floats(4)),
    "capsules": Entry(Capsules, floats(1, 8, 8)),
    "NeRF": Entry(NeRF, floats(3)),
    "SIREN": Entry(SIREN, floats(2)),
    "forces": Entry(Energy, floats(3)),
    "PINN": Entry(PINN, floats(2)),
    "tangent": Entry(Tangent, floats(4)),
    "trace of a Jacobian": Entry(Trace, floats(4)),
    "ensemble": Entry(Ensemble, SIX),
    "MAML": Entry(Meta, _two((6,), (6,))),
    "deep equilibrium": Entry(Implicit, SIX),
    "neural ODE": Entry(ODE, floats(4)),
    "FiLM": Entry(FiLM, _two((3, 6, 6), (4,))),
    "several heads": Entry(Multitask, SIX),
    "VQ": Entry(Quantizer, SIX),
    "Fourier operator": Entry(FFTConv, floats(1, 8)),
    "checkpointed": Entry(Checkpointed, SIX),
    "spectral norm": Entry(_spectral, SIX),
    "list of layers": Entry(lambda: nn.Sequential(*(nn.Linear(6, 6) for _ in range(4))), SIX),
    "one layer twice": Entry(lambda: (lambda m: nn.Sequential(m, nn.ReLU(), m))(nn.Linear(6, 6)), SIX),
}
