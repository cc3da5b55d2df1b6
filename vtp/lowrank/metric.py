"""In which norm a layer's error is measured: that of its weights, of its outputs, or of what they do to the loss.

The error of Ŵ in place of W is ‖P (W - Ŵ) S‖_F with

- `weight`: P and S identities;
- `activation`: S the square root of the covariance of the layer's inputs. With the mean shift in the bias this is
  E‖W x + b - Ŵ x - b̂‖², the squared error of the layer's output (SVD-LLM, arXiv:2403.07378, without its Cholesky
  factor, which a singular covariance does not have);
- `loss`: S as above and P the square root of the second moment of the gradient of the loss by the layer's output.
  The squared error is then twice the loss that is added, in the Kronecker-factored approximation of the Fisher
  information (K-FAC, arXiv:1503.05671): the one unit in which layers can be compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vtp.calibration.moments import Moments
from vtp.calibration.roots import Root, check_gradients, gradient_ridge


@dataclass(frozen=True)
class Metric:
    """The norm ‖P E S‖_F of an error E (out, in) of a layer's weight.

    Attributes:
        left, right: P (out, out) and S (in, in) with their pseudo-inverses, or None for the identity.
        is_shared: whether errors of different layers are in one unit; else they are compared relative to the
            whole layer.
    """

    left: Root | None = None
    right: Root | None = None
    is_shared: bool = False

    @property
    def moves_mean(self) -> bool:
        """Whether errors are those of outputs about their mean, so that the mean shift goes into the bias."""
        return self.right is not None

    @property
    def roots(self) -> tuple[Root, ...]:
        """Those of P and S that are not the identity."""
        return tuple(root for root in (self.left, self.right) if root is not None)

    def apply(self, matrix: Tensor) -> Tensor:
        """Return P M S."""
        matrix = matrix if self.left is None else self.left.root @ matrix
        return matrix if self.right is None else matrix @ self.right.root

    def undo(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        """Return the factors of Ŵ from those (out, rank) and (rank, in) of P Ŵ S."""
        left = left if self.left is None else self.left.inverse @ left
        return left, right if self.right is None else right @ self.right.inverse


def metrics(kind: str, flows: Mapping[str, Moments]) -> dict[str, Metric]:
    """Return layer -> the metric of `kind` (`decompose.metric`); layers that read the same share its root.

    Raises UserError as `check_gradients`, for the kind `loss`.
    """
    if kind == "weight":
        return dict.fromkeys(flows, Metric())
    inputs = {id(flow.inputs): flow.inputs for flow in flows.values()}
    roots = {key: Root(moments.covariance) for key, moments in inputs.items()}
    if kind == "activation":
        return {name: Metric(right=roots[id(flow.inputs)]) for name, flow in flows.items()}
    check_gradients(flows)
    return {
        name: Metric(Root(flow.gradients, gradient_ridge(flow)), roots[id(flow.inputs)], True)
        for name, flow in flows.items()
    }
