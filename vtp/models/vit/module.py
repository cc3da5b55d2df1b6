"""The vision transformer (arXiv:2010.11929), built from a spec; by default in the form of the paper's code.

Class token, learned positions, norms before the layers, GELU; q, k and v without a bias.
Shape suffixes: B images, N tokens, D model dims.
"""

import torch
from torch import Tensor, nn

from vtp.models.base import Model
from vtp.models.family import State
from vtp.models.layers import ImportanceScore, fill
from vtp.models.vit.block import Block
from vtp.models.vit.mimetic import begin_attention, waves
from vtp.models.vit.spec import ViTSpec

FEWER_PATCHES = 0.9  # of a training


class PatchDropout(nn.Module):
    """Leave out some patches of each image while training, which takes less time (PatchDropout, arXiv:2208.07220).

    Args:
        part: of the patches that are left out; at least one stays.
        prefix: how many tokens come before the patches; all stay.

    Attributes:
        active: whether that part is left out in training.
    """

    def __init__(self, part: float, prefix: int) -> None:
        super().__init__()
        self.part, self.prefix, self.active = part, prefix, True

    def forward(self, x_BND: Tensor) -> Tensor:
        """Return the prefix and the patches that stay, in any order: (B, fewer, D)."""
        if not (self.training and self.active and self.part):
            return x_BND
        prefix, patches = x_BND[:, : self.prefix], x_BND[:, self.prefix :]
        images, count, dim = patches.shape
        drawn = torch.rand(images, count, device=x_BND.device)
        staying = drawn.topk(max(1, round(count * (1 - self.part))), 1).indices
        return torch.cat([prefix, patches.gather(1, staying[:, :, None].expand(-1, -1, dim))], 1)


class VisionTransformer(Model):
    """Prefix tokens and patches, blocks, pooling and norm, linear head."""

    writers = ("attention.output", "mlp.down")
    spec: ViTSpec

    def __init__(self, spec: ViTSpec) -> None:
        super().__init__(spec)
        patches, prefix = (spec.image_size // spec.patch_size) ** 2, spec.prefix_tokens
        self.embedding = nn.Linear(spec.channels * spec.patch_size**2, spec.dim)
        self.class_token = nn.Parameter(torch.zeros(spec.dim)) if prefix else None
        self.registers = nn.Parameter(torch.zeros(prefix - 1, spec.dim)) if prefix > 1 else None
        self.positions = nn.Parameter(torch.zeros(prefix + patches, spec.dim))
        self.dropout = nn.Dropout(spec.dropout)
        self.patch_dropout = PatchDropout(spec.patch_dropout, prefix)
        self.pre_norm = nn.LayerNorm(spec.dim, spec.norm_epsilon) if spec.pre_norm else nn.Identity()
        rise = spec.stochastic_depth / max(1, len(spec.blocks) - 1)
        self.blocks = nn.ModuleList(Block(spec, block, i * rise) for i, block in enumerate(spec.blocks))
        self.norm = nn.Identity() if spec.norm == "none" else nn.LayerNorm(spec.dim, spec.norm_epsilon)
        features = spec.dim * len(spec.pool)
        self.representation = nn.Linear(features, spec.representation) if spec.representation else None
        self.head = nn.Linear(spec.representation or features, spec.classes)

    def begin_epoch(self, done: float) -> None:
        """Let the last epochs see every patch, as who uses the model does (as FLIP does, arXiv:2212.00794)."""
        self.patch_dropout.active = done <= FEWER_PATCHES

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Patches, projected, after the prefix tokens, plus positions: (B, N, D); in training maybe fewer."""
        x_BND = self.placed(self.embedding(self.patches(self.normalised(images_BCHW))))
        return self.patch_dropout(x_BND)  # type: ignore[no-any-return]

    def patches(self, pixels_BCHW: Tensor) -> Tensor:
        """The pixels of each patch, by row, column and channel: (B, patches, C · patch_size²)."""
        size = self.spec.patch_size
        patches: Tensor = pixels_BCHW.unflatten(3, (-1, size)).unflatten(2, (-1, size))  # B C rows p columns p
        return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def placed(self, patches_BND: Tensor) -> Tensor:
        """Projected patches after the prefix tokens, plus positions: (B, N, D)."""
        tokens, count = [patches_BND], patches_BND.shape[0]
        if self.registers is not None:
            tokens.insert(0, self.registers.to(tokens[0].dtype).expand(count, -1, -1))
        if self.class_token is not None:
            tokens.insert(0, self.class_token.to(tokens[0].dtype).expand(count, 1, -1))
        return self.pre_norm(self.dropout(torch.cat(tokens, 1) + self.positions))  # type: ignore[no-any-return]

    def run_block(self, index: int, x_BND: Tensor) -> Tensor:
        """What the block makes of its tokens; of the last block's, only those that the head reads are computed.

        Nothing else is read after it: the logits are the same.
        """
        return self.blocks[index](x_BND, queries=self.queries(index))  # type: ignore[no-any-return]

    def queries(self, index: int) -> int | None:
        """Return how many tokens, from the first on, are read of what block `index` gives; None: all."""
        pool = self.spec.pool
        if index < len(self.spec.blocks) - 1 or "patches" in pool:
            return None
        return 2 if "distillation" in pool else 1

    def classify(self, x_BND: Tensor) -> Tensor:
        """Logits of the pooled tokens."""
        x = self.norm(x_BND) if self.spec.norm == "tokens" else x_BND
        pooled = [self._pooled(x, part) for part in self.spec.pool]
        if self.spec.norm == "pooled":
            pooled = [self.norm(features) for features in pooled]
        features = torch.cat(pooled, -1) if len(pooled) > 1 else pooled[0]
        if self.representation is not None:
            features = self.representation(features).tanh()
        return self.head(features)  # type: ignore[no-any-return]

    def _pooled(self, x_BND: Tensor, part: str) -> Tensor:
        """Return what `part` of `pool` stands for: (B, D)."""
        if part == "patches":
            return x_BND[:, self.spec.prefix_tokens :].mean(1)
        return x_BND[:, 1 if part == "distillation" else 0]

    def head_dims(self) -> dict[str, list[int]]:
        """Return site -> the dims of each head, for the inner dims of every block's attention."""
        blocks = enumerate(self.spec.blocks)
        return {f"blocks.{index}.attention.inner": [head.v for head in block.heads] for index, block in blocks}

    @torch.no_grad()
    def initialise(self) -> None:
        """Weights, positions and prefix tokens are normal, biases and the head zero.

        The zero head starts training at the uniform distribution, as in the original ViT. Weights have the
        deviation of the spec: what training adds to small ones is of low rank, and loses little when it is
        compressed. Where that is 0 they are Xavier-uniform, which keeps the residual stream's variance. Prefix
        tokens have a deviation of 0.02, positions that of the spec: beside patches of unit variance, positions of
        0.02 are learnt late. Where the spec says so, attention and positions are `mimetic` instead.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                if self.spec.weight_std:
                    nn.init.normal_(module.weight, std=self.spec.weight_std)
                else:
                    nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | ImportanceScore):
                module.reset_parameters()
        nn.init.zeros_(self.head.weight)
        for tokens, std in (
            (self.class_token, 0.02),
            (self.positions, self.spec.position_std),
            (self.registers, 0.02),
        ):
            if tokens is not None:
                nn.init.normal_(tokens, std=std)
        if self.spec.mimetic:
            side = self.spec.image_size // self.spec.patch_size
            self.positions[: self.spec.prefix_tokens] = 0
            self.positions[self.spec.prefix_tokens :] = waves(side, self.spec.dim, self.spec.position_std)
            for block in self.blocks:
                begin_attention(block.attention)  # type: ignore[arg-type]


def filled(spec: ViTSpec, state: State) -> VisionTransformer:
    """Return the dense model of `spec`, in evaluation mode, with copies of the weights in `state`, in their dtype.

    Raises UserError naming the first tensor that is missing, left over, or of another shape.
    """
    with torch.device("meta"):
        model = VisionTransformer(spec)
    fill(model, state)
    return model.eval()
