import numpy as np
import pandas as pd
import pytest

from dfdetect.cli import main
from dfdetect.evaluation.evaluate import evaluate
from dfdetect.evaluation.metrics import WITHOUT_INTERVALS
from dfdetect.evaluation.table import FIGURES, to_markdown, to_table, write_table
from tests.conftest import make_face_set


@pytest.fixture(scope="module")
def by_method(tmp_path_factory):
    """Return a face set of two sources; one source has fakes of two methods."""
    folder = tmp_path_factory.mktemp("methods")
    face_set = make_face_set(folder)
    table = pd.read_csv(face_set, dtype=str)
    number = np.arange(48)
    table["source"] = np.where(number < 24, "studio", "street")
    methods = np.where(number < 24, np.where(number < 12, "swap|a", "puppet"), "swap|a")
    table["method"] = np.where(table["label"] == "FAKE", methods, "")
    table.to_csv(face_set, index=False)
    return face_set


@pytest.fixture(scope="module")
def result(by_method):
    return evaluate(by_method, weights="logistic_regression")


def test_evaluate_measures_each_method_with_the_real_of_its_sources(result):
    assert list(result.methods) == ["puppet", "swap|a"]
    puppet, swap = result.methods.values()
    assert (puppet.n, puppet.fake_fraction) == (6 + 12, 6 / 18)
    assert (swap.n, swap.fake_fraction) == (18 + 24, 18 / 42)
    assert puppet.intervals == {}  # six actors are too few
    low, high = swap.intervals["auc"]
    assert low <= swap.auc <= high


def test_to_table_has_a_row_for_each_part(result):
    table = to_table(result)
    assert table["part"].tolist() == [*("videos", "frames", "source", "source", "method", "method")]
    videos = table.iloc[0]
    assert videos["n"] == 48
    for name in set(FIGURES) - set(WITHOUT_INTERVALS):
        assert videos[f"{name}_low"] <= videos[name] <= videos[f"{name}_high"]
    assert np.isnan([videos["calibration_error_low"], videos["best_accuracy_high"]]).all()
    assert table[table["name"] == "puppet"]["auc_low"].isna().all()


def test_to_markdown_is_one_table(result):
    lines = to_markdown(result).splitlines()
    cells = [line.replace("\\|", "").count("|") for line in lines]
    assert len(lines) == 2 + 6
    assert set(cells) == {len(FIGURES) + 4}
    assert lines[0].startswith("|  | n | FAKE | AUC | AP | EER | TPR at 1 % FPR")
    assert "method swap\\|a" in lines[-1]


def test_evaluate_command_writes_a_table(by_method, tmp_path):
    out = tmp_path / "table.csv"
    options = ["--weights", "logistic_regression", "--table", str(out)]
    assert main(["evaluate", str(by_method), *options]) == 0
    assert len(pd.read_csv(out)) == 6


def test_write_table_writes_markdown(result, tmp_path):
    write_table(tmp_path / "table.md", result)
    assert (tmp_path / "table.md").read_text().rstrip() == to_markdown(result).rstrip()


def test_evaluate_refuses_other_tables_before_it_measures(by_method, result, tmp_path, capsys):
    assert main(["evaluate", str(by_method), "--table", str(tmp_path / "table.docx")]) == 2
    assert "the name of a table must end in .md or .csv" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"must end in \.md or \.csv"):
        write_table(tmp_path / "table", result)
