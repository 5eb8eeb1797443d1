"""Operators of the zoo that reduce, reshape and index a tensor ``(batch, 4, 6)``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

Functions = dict[str, Callable[[Tensor], Tensor]]


def _some(h: Tensor) -> Tensor:
    return torch.tensor([[0, 2, 1], [3, 1, 0], [1, 1, 2], [5, 0, 3]]).expand(h.shape[0], 4, 3)


REDUCTIONS: Functions = {
    "all": lambda h: (h > -1).all(-1).float(),
    "any": lambda h: (h > 1).any(-1).float(),
    "amax": lambda h: h.amax(-1),
    "amin": lambda h: h.amin((1, 2), keepdim=True),
    "aminmax": lambda h: torch.cat([*torch.aminmax(h, dim=1)], 1),
    "argmax": lambda h: h.argmax(-1).float(),
    "argmin": lambda h: h.argmin(1).float(),
    "argsort": lambda h: h.argsort(-1).float(),
    "bernoulli": lambda h: torch.bernoulli(h.sigmoid()),
    "bucketize": lambda h: torch.bucketize(h, torch.tensor([-1.0, 0.0, 1.0])).float(),
    "count_nonzero": lambda h: torch.count_nonzero(h.relu(), -1).float(),
    "cummax": lambda h: torch.cummax(h, -1).values,
    "cumprod": lambda h: torch.cumprod(h, -1),
    "cumsum": lambda h: torch.cumsum(h, 1),
    "diff": lambda h: torch.diff(h, dim=-1),
    "kthvalue": lambda h: torch.kthvalue(h, 2, -1).values,
    "linalg.matrix_norm": torch.linalg.matrix_norm,
    "linalg.vector_norm": lambda h: torch.linalg.vector_norm(h, 3, -1),
    "logcumsumexp": lambda h: torch.logcumsumexp(h, -1),
    "logsumexp": lambda h: h.logsumexp(-1),
    "max (axis)": lambda h: h.max(-1).values,
    "max (all)": lambda h: h / h.detach().flatten(1).max(1).values[:, None, None],
    "mean": lambda h: h.mean((1, 2)),
    "median": lambda h: h.median(-1).values,
    "min (axis)": lambda h: h.min(1).values,
    "mode": lambda h: h.round().mode(-1).values,
    "msort": lambda h: torch.sort(h, 1).values,
    "nanmean": lambda h: h.nanmean(-1),
    "nansum": lambda h: h.nansum(-1),
    "norm": lambda h: h.norm(dim=-1),
    "norm (1)": lambda h: h.norm(1, -1),
    "norm (infinity)": lambda h: h.norm(float("inf"), -1),
    "prod": lambda h: h.prod(-1),
    "quantile": lambda h: h.quantile(0.3, -1),
    "rand_like": torch.rand_like,
    "randn_like": lambda h: h + torch.randn_like(h),
    "dropout left on": lambda h: functional.dropout(h, 0.5, training=True),
    "renorm": lambda h: torch.renorm(h, 2, 0, 1.0),
    "sort": lambda h: h.sort(-1, descending=True).values,
    "std": lambda h: h.std(-1),
    "std_mean": lambda h: torch.cat(torch.std_mean(h, -1), 1),
    "sum": lambda h: h.sum(1),
    "topk": lambda h: h.topk(3, -1).values,
    "trace": lambda h: h[:, :, :4].diagonal(dim1=1, dim2=2).sum(-1),
    "trapezoid": lambda h: torch.trapezoid(h, dx=0.5, dim=-1),
    "unique": lambda h: torch.ops.aten._unique2(h)[0][:1] + h,
    "var": lambda h: h.var(-1, correction=0),
    "var_mean": lambda h: torch.cat(torch.var_mean(h, -1), 1),
    "fft.fft": lambda h: torch.view_as_real(torch.fft.fft(h)),
    "fft.fft, abs": lambda h: torch.fft.fft(h).abs(),
    "fft.fft2": lambda h: torch.fft.fft2(h).real,
    "fft.ifft": lambda h: torch.fft.ifft(torch.fft.fft(h) * 0.5).real,
    "fft.rfft": lambda h: torch.view_as_real(torch.fft.rfft(h)),
    "fft.irfft": lambda h: torch.fft.irfft(torch.fft.rfft(h), n=6),
    "linalg.det": lambda h: torch.linalg.det(h[:, :, :4]),
    "linalg.eigvalsh": lambda h: torch.linalg.eigvalsh(h @ h.mT),
    "linalg.inv": lambda h: torch.linalg.inv(h @ h.mT + torch.eye(4)),
    "linalg.cholesky": lambda h: torch.linalg.cholesky(h @ h.mT + torch.eye(4)),
    "linalg.solve": lambda h: torch.linalg.solve(h @ h.mT + torch.eye(4), h),
    "linalg.svdvals": torch.linalg.svdvals,
    "linalg.qr": lambda h: torch.linalg.qr(h).R,
    "linalg.matrix_power": lambda h: torch.linalg.matrix_power(h[:, :, :4], 3),
    "matrix_exp": lambda h: torch.matrix_exp(h[:, :, :4]),
}

SHAPES: Functions = {
    "as_strided": lambda h: torch.as_strided(h.contiguous(), (h.shape[0], 5), (24, 2), 1),
    "broadcast_to": lambda h: h[:, :1].broadcast_to(h.shape[0], 4, 6),
    "cat": lambda h: torch.cat([h, 2 * h], -1),
    "channel_shuffle": lambda h: functional.channel_shuffle(h, 2),
    "chunk": lambda h: h.chunk(4, -1)[1],
    "column_stack": lambda h: torch.column_stack([h[:, 0], h[:, 1]]),
    "contiguous": lambda h: h.mT.contiguous(),
    "diag_embed": lambda h: torch.diag_embed(h[:, 0]),
    "diagonal": lambda h: torch.diagonal(h, dim1=1, dim2=2),
    "diagonal (offset)": lambda h: torch.diagonal(h, 1, 1, 2),
    "dstack": lambda h: torch.dstack([h, h * h]),
    "expand": lambda h: h.mean(1, keepdim=True).expand(-1, 3, -1),
    "flatten": lambda h: h.flatten(),
    "flip": lambda h: h.flip(1, 2),
    "fliplr": torch.fliplr,
    "full_like": lambda h: torch.full_like(h, 0.5) * h,
    "hstack": lambda h: torch.hstack([h, h]),
    "mT": lambda h: h.mT,
    "meshgrid": lambda h: h + torch.meshgrid(torch.arange(4), torch.arange(6), indexing="ij")[0],
    "movedim": lambda h: h.movedim(1, 2),
    "new_zeros": lambda h: torch.cat([h, h.new_zeros(h.shape[0], 1, 6)], 1),
    "ones": lambda h: h + torch.ones(h.shape[0], 1, 1),
    "pad (circular)": lambda h: functional.pad(h, (1, 2), mode="circular"),
    "pad (constant)": lambda h: functional.pad(h, (1, 2, 0, 1), value=0.5),
    "pad (negative)": lambda h: functional.pad(h, (-1, 2)),
    "pad (reflect)": lambda h: functional.pad(h, (2, 1), mode="reflect"),
    "pad (replicate)": lambda h: functional.pad(h, (2, 1), mode="replicate"),
    "permute": lambda h: h.permute(0, 2, 1),
    "repeat": lambda h: h.repeat(1, 2, 1),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1),
    "reshape": lambda h: h.reshape(-1, 3, 8),
    "reshape (batch)": lambda h: h.reshape(-1, 6).tanh().reshape(-1, 4, 6),
    "roll": lambda h: h.roll((1, 2), (1, 2)),
    "roll (flat)": lambda h: h[:, 0].roll(1, 1),
    "rot90": lambda h: torch.rot90(h, 1, (1, 2)),
    "split": lambda h: torch.cat(
        [part * i for i, part in enumerate(torch.split_with_sizes(h, [1, 2, 3], -1))], -1
    ),
    "squeeze": lambda h: h[:, :1].squeeze(1),
    "stack": lambda h: torch.stack([h, -h], 1),
    "swapaxes": lambda h: h.swapaxes(1, 2),
    "tensor_split": lambda h: h.tensor_split(4, -1)[0],
    "tile": lambda h: h.tile(1, 1, 2),
    "transpose": lambda h: h.transpose(1, 2),
    "tril": torch.tril,
    "triu": lambda h: h.triu(1),
    "unbind": lambda h: h.unbind(1)[2],
    "unflatten": nn.Unflatten(2, (2, 3)),
    "unfold (tensor)": lambda h: h.unfold(2, 3, 2),
    "unsqueeze": lambda h: h.unsqueeze(1),
    "view": lambda h: h.contiguous().view(h.shape[0], 24),
    "view_as_complex": lambda h: torch.view_as_complex(h.reshape(-1, 4, 3, 2)).abs(),
    "zeros_like": lambda h: torch.zeros_like(h) + h,
}


def _changed(h: Tensor) -> Tensor:
    made = h.clone()
    made[:, 1] = made[:, 2] * 2
    made[:, :, 2:4] += 1
    return made


INDEXING: Functions = {
    "advanced index": lambda h: h[:, [0, 2, 1], [5, 0, 3]],
    "boolean mask": lambda h: h[:, torch.tensor([True, False, True, True])],
    "boolean mask of values": lambda h: h[h > 0].sum() + h,
    "ellipsis": lambda h: h[..., 1:],
    "embedding": lambda h: functional.embedding((h * 4).abs().long() % 5, torch.eye(5)),
    "gather": lambda h: torch.gather(h, 2, _some(h)),
    "index_add": lambda h: h.index_add(1, torch.tensor([0, 2]), h[:, :2]),
    "index_copy": lambda h: h.index_copy(1, torch.tensor([0, 2]), h[:, 1:3]),
    "index_fill": lambda h: h.index_fill(1, torch.tensor([0, 2]), 0.5),
    "index_put": lambda h: (
        h.movedim(0, 1).index_put((torch.tensor([0, 2]),), h[:, 1]).movedim(0, 1)
    ),
    "index_select": lambda h: h.index_select(2, torch.tensor([0, 2, 2])),
    "item": lambda h: h * (2.0 if h.sum().item() > 0 else 1.0),
    "len": lambda h: h.tanh().reshape(len(h), 24),
    "masked_fill": lambda h: h.masked_fill(h > 1, 0.0),
    "masked_scatter": lambda h: h.masked_scatter(h > 1, -h),
    "masked_select": lambda h: torch.masked_select(h, h > 0).sum() + h,
    "narrow": lambda h: h.narrow(2, 1, 3),
    "negative index": lambda h: h[:, -1, -3:],
    "nonzero": lambda h: torch.nonzero(h > 0).sum() + h,
    "one_hot": lambda h: functional.one_hot(h.argmax(-1), 6).float() * h,
    "scatter": lambda h: torch.zeros_like(h).scatter(2, _some(h), h[..., :3]),
    "scatter_add": lambda h: torch.zeros_like(h).scatter_add(2, _some(h), h[..., :3]),
    "scatter_reduce": lambda h: h.scatter_reduce(2, _some(h), h[..., :3], "amax"),
    "searchsorted": lambda h: torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), h).float(),
    "select": lambda h: h.select(2, 3),
    "select_scatter": lambda h: h.select_scatter(h[:, 0] * 2, 1, 1),
    "slice (step)": lambda h: h[:, ::2, 1::3],
    "slice_scatter": lambda h: h.slice_scatter(h[:, :2] * 2, 1, 1, 3),
    "slices written": _changed,
    "take_along_dim": lambda h: torch.take_along_dim(h, h.argsort(-1), -1),
}
