"""The choice of TTA's views: families that help on validation are kept, others are not, and plain is the fallback."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from lhcnet.config import Family
from lhcnet.inference.tta import family_views, tta_views
from lhcnet.protocol.view_choice import FAMILIES, choose_views, mean_over_views

VIEWS = tta_views()


def stack(noise: dict[Family, float], n: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (60, n, 7) of views with independent noise, larger by what their families add; and labels."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, n).astype(np.uint8)
    logits = 2.0 * np.eye(7)[labels]
    scale = [1.0 + sum(noise.get(family, 0.0) for family in view.families) for view in VIEWS]
    views = [softmax(logits + s * rng.normal(0, 1, (n, 7)), axis=1) for s in scale]
    return np.stack(views).astype(np.float32), labels


def test_families_divide_the_papers_views() -> None:
    assert family_views(()) == [VIEWS[0]]
    assert [len(family_views((family,))) for family in FAMILIES] == [2, 9, 3, 4]
    assert [view.weight for view in family_views(("flip",))] == [3, 3]
    everything = family_views(FAMILIES)
    assert [view.weight for view in everything] == [3, 3] + [1] * 58
    assert {str(view) for view in everything} == {str(view) for view in VIEWS}
    assert str(VIEWS[0]) == "image itself"
    assert str(VIEWS[-1]) == "zoom 0.9, rotation -0.15, flip"
    assert [view.rotation for view in family_views(("zoom",), 0.4)] == [0, 0, 0.4, -0.4]


def test_what_helps_is_kept_and_what_spoils_is_not() -> None:
    p, labels = stack({"rotation": 30.0})
    choice, mean = choose_views(p, VIEWS, labels)
    assert set(choice.families) == {"flip", "shift", "zoom"}
    by_name = {score.name: score for score in choice.tried}
    plain, kept = choice.tried[0], by_name[" + ".join(choice.families)]
    assert (plain.name, plain.views, kept.views) == ("plain", 1, choice.views)
    assert kept.nll < plain.nll
    assert kept.accuracy > plain.accuracy
    assert choice.paper.nll > kept.nll
    assert len(choice.tried) == 1 + 4 + 3 + 2 + 1
    assert [score.name for score in choice.single] == [str(view) for view in VIEWS]
    assert (mean.argmax(1) == labels).mean() == kept.accuracy
    np.testing.assert_allclose(mean.sum(1), 1, atol=1e-5)


def test_without_help_the_image_alone_stays() -> None:
    """Views that only flatten the probabilities lower the NLL of an overconfident network; that is no help."""
    p, labels = stack(dict.fromkeys(FAMILIES, 30.0))
    p[0] = softmax(8 * np.log(p[0]), axis=1)
    p[1:] = 1 / 7
    choice, mean = choose_views(p, VIEWS, labels)
    assert (choice.families, choice.views) == ((), 1)
    assert np.array_equal(mean, p[0])
    assert len(choice.tried) == 5


def test_a_lower_nll_does_not_pay_for_a_lower_accuracy() -> None:
    labels = np.zeros(100, np.uint8)
    p = np.full((60, 100, 7), 0.01, np.float32)
    p[:, :, 0], p[:, :, 1] = 0.48, 0.47  # all right, by a hair
    p[1:, :90, 0], p[1:, :90, 1] = 0.94, 0.01  # views are surer of most images, and wrong in the others
    p[1:, 90:, 0], p[1:, 90:, 1] = 0.40, 0.55
    choice, _ = choose_views(p, VIEWS, labels)
    assert min(score.nll for score in choice.tried[1:]) < choice.tried[0].nll
    assert choice.families == ()


def test_the_mean_weighs_the_views() -> None:
    p, _ = stack({}, 20)
    for weights in ([3.0], [3.0, 1.0, 1.0]):
        some = p[: len(weights)]
        np.testing.assert_allclose(mean_over_views(some, weights), np.average(some, axis=0, weights=weights), rtol=1e-5)
