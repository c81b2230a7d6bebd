import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from dfdetect import HeatMap, Status, VideoResult
from dfdetect.reporting.json_file import to_json, write_json
from tests.reporting.test_terminal import FAKE, NO_FACE, NO_VERDICT

SCHEMA = json.loads(
    (Path(__file__).parents[2] / "docs" / "result.schema.json").read_text(encoding="utf-8")
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_schema_is_a_valid_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("result", [FAKE, NO_VERDICT, NO_FACE], ids=lambda one: one.name)
def test_to_json_is_as_the_schema_says(result):
    line = to_json(result)
    assert len(line.splitlines()) == 1
    VALIDATOR.validate(json.loads(line))
    assert VideoResult.from_dict(json.loads(line)) == result


def test_schema_knows_all_fields_and_statuses():
    assert SCHEMA["properties"].keys() == FAKE.to_dict().keys() == set(SCHEMA["required"])
    assert SCHEMA["properties"]["status"]["enum"] == [status.value for status in Status]


def test_schema_describes_heat_maps():
    heat_map = HeatMap(0.5, np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32))
    track = type(FAKE.tracks[0])(**{**vars(FAKE.tracks[0]), "heat_maps": [heat_map]})
    result = VideoResult(**{**vars(FAKE), "tracks": [track]})
    VALIDATOR.validate(json.loads(json.dumps(result.to_dict(heat_maps=True))))


def test_to_json_is_ascii_whatever_the_name():
    name = "caf\udce9 顔.mp4"
    assert json.loads(to_json(VideoResult(**{**vars(FAKE), "name": name})))["name"] == name


def test_write_json_is_an_array_or_lines(tmp_path):
    results = [FAKE, NO_FACE]
    write_json(tmp_path / "r.json", results)
    write_json(tmp_path / "r.jsonl", results)
    array = json.loads((tmp_path / "r.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert array == lines
    assert [VideoResult.from_dict(one) for one in array] == results
