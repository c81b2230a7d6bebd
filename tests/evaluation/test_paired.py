import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from dfdetect.cli import main
from dfdetect.errors import ArgumentError
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.evaluation.paired import compare_results, delong_test
from tests.conftest import make_face_set


@pytest.fixture
def answers():
    """Return labels, and probabilities of a good and a worse detector with correlated errors."""
    generator = np.random.default_rng(0)
    labels = np.arange(200) % 2
    shared = generator.normal(size=200)
    good, worse = (
        1 / (1 + np.exp(-(strength * labels + shared + 0.5 * generator.normal(size=200))))
        for strength in (2.0, 1.0)
    )
    return labels, good.round(2), worse.round(2)  # rounded, so that there are ties


def test_delong_test_agrees_with_the_formula_of_1988(answers):
    labels, *both = answers
    fake, real = labels == 1, labels == 0
    of_fakes, of_reals = [], []
    for values in both:
        above = np.sign(values[fake][:, None] - values[real][None]) / 2 + 0.5
        of_fakes.append(above.mean(axis=1))
        of_reals.append(above.mean(axis=0))
    covariance = np.cov(of_fakes) / fake.sum() + np.cov(of_reals) / real.sum()
    deviation = np.sqrt([1, -1] @ covariance @ [1, -1])
    found = delong_test(labels, *both)
    areas = [roc_auc_score(labels, values) for values in both]
    assert [found.first, found.second] == pytest.approx(areas)
    assert found.difference == pytest.approx(areas[1] - areas[0])
    low, high = found.interval
    assert (high - low) / 2 == pytest.approx(1.96 * deviation, rel=1e-3)
    assert high < 0
    assert found.p_value < 0.001


def test_delong_test_of_a_detector_with_itself(answers):
    labels, good, _ = answers
    found = delong_test(labels, good, good)
    assert (found.difference, found.interval, found.p_value) == (0, (0, 0), 1)


def test_delong_test_of_one_class_says_nothing():
    found = delong_test(np.ones(4, int), np.full(4, 0.5), np.full(4, 0.6))
    assert np.isnan([found.first, found.difference, found.p_value]).all()
    assert found.interval is None


@pytest.fixture(scope="module")
def face_set(tmp_path_factory):
    return make_face_set(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def two_results(face_set):
    return [evaluate(face_set, weights=name) for name in ("logistic_regression", "simple_cnn_2")]


def test_compare_results_draws_whole_actors_for_both(two_results):
    found = compare_results(*two_results)
    assert found.groups == 12
    first, second = (result.metrics for result in two_results)
    for name, one in found.differences.items():
        assert (one.first, one.second) == pytest.approx(
            (getattr(first, name), getattr(second, name))
        )
        low, high = one.interval
        assert low <= one.difference <= high
        # The interval holds 0 if each side of 0 has at least 2.5 % of the draws.
        assert (low <= 0 <= high) == (one.p_value > 0.05) or one.p_value == pytest.approx(0.05, 0.1)
    assert found.delong.difference == pytest.approx(found.differences["auc"].difference)


def test_compare_results_of_a_detector_with_itself(two_results):
    found = compare_results(two_results[0], two_results[0])
    assert {one.difference for one in found.differences.values()} == {0}
    assert {one.p_value for one in found.differences.values()} == {1}


def test_compare_results_computes_p_values_from_defined_draws(two_results, monkeypatch):
    def draw(differ, groups):
        names = list(differ(np.ones(groups)))
        return pd.DataFrame({name: [0.1] * 9 + [np.nan] * 90 for name in names})

    monkeypatch.setattr("dfdetect.evaluation.paired.bootstrap_draws", draw)
    found = compare_results(*two_results)
    assert {one.p_value for one in found.differences.values()} == {2 / 10}


def test_compare_results_of_other_videos(two_results, tmp_path, face_set):
    table = face_set.read_text().splitlines()[:25]
    (tmp_path / "half.csv").write_text("\n".join(table))
    (tmp_path / "half").symlink_to(face_set.with_suffix(""))
    half = evaluate(tmp_path / "half.csv", weights="logistic_regression")
    with pytest.raises(ArgumentError, match="results are not of the same videos"):
        compare_results(two_results[0], half)


def test_evaluate_command_compares_two_detectors(face_set, capsys, two_results):
    names = ["logistic_regression", "simple_cnn_2"]
    assert main(["evaluate", str(face_set), "--compare", *names, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["first"]["auc"] == two_results[0].metrics.auc
    assert found["differences"]["auc"]["p_value"] <= 1
    assert main(["evaluate", str(face_set), "--compare", *names]) == 0
    printed = capsys.readouterr().out
    assert "AUC, by DeLong's test" in printed
    assert main(["evaluate", str(face_set), "--compare", *names, "--weights", names[0]]) == 2
    assert "--weights is for one detector" in capsys.readouterr().err
