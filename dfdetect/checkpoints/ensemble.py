"""Ensembles: several models whose calibrated logits are averaged."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from dfdetect.checkpoints import spec
from dfdetect.checkpoints.spec import VERSION, ModelSpec
from dfdetect.errors import ArgumentError
from dfdetect.results import OperatingPoints
from dfdetect.scoring.aggregation import Aggregation

CHECKSUM_KEY = "sha256"
FORMAT = "dfdetect-ensemble"
MEMBER_COUNTS = range(2, 65)
# What is said if members with different crop rules score crops that were cut already.
MIXED_CROPS = (
    "the members of the ensemble were trained on crops that were cut in different ways, but all of "
    "them score the same crops here: scores of videos are more accurate"
)


@dataclass(frozen=True)
class EnsembleSpec:
    """Description of an ensemble: several models whose logits are averaged.

    The models are the members of the ensemble. Each member has its own crop format and its own
    calibration. For each frame, the calibrated logits of all members are averaged. The aggregation
    of the ensemble turns these mean logits into the probability of the video. The aggregations of
    the members are not used.

    Args:
        members: The specification of each member, in the order of the members in the file.
        shares: Weight of each member in the mean of the logits. All weights are above 0, and they
            sum to 1.
        aggregation: Rules that combine the mean logits of frames into the probability of a video.
        operating_points: Thresholds of the verdicts `uncertain` and `fake`, or None if they were
            not fitted. The thresholds of the members are not valid for the ensemble.
        scores: Metrics of the ensemble, by name of the test data, such as `held_out_actors`.

    Raises:
        ArgumentError: There are fewer than 2 or more than 64 members, `shares` is not as described
            above, or `scores` is not a dictionary.
    """

    members: tuple[ModelSpec, ...]
    shares: tuple[float, ...]
    aggregation: Aggregation = field(default_factory=Aggregation)
    operating_points: OperatingPoints | None = None
    scores: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise ArgumentError if the members, the shares or the scores are not valid."""
        if len(self.members) not in MEMBER_COUNTS:
            raise ArgumentError(
                f"an ensemble needs {MEMBER_COUNTS[0]} to {MEMBER_COUNTS[-1]} members, "
                f"not {len(self.members)}"
            )
        good = len(self.shares) == len(self.members) and all(0 < one <= 1 for one in self.shares)
        if not good or not np.isclose(sum(self.shares), 1):
            raise ArgumentError(
                f"shares must be numbers above 0 that sum to 1, one for each of "
                f"{len(self.members)} members, not {self.shares}"
            )
        if not isinstance(self.scores, dict):
            raise ArgumentError("scores must be a JSON object")

    @property
    def training(self) -> dict[str, Any]:
        """Return {"faces": names}: the face sets on which the members were trained, each once."""
        faces = (name for member in self.members for name in member.training.get("faces", ()))
        return {"faces": list(dict.fromkeys(faces))}

    @property
    def licence(self) -> str:
        """Return the licences of all members as one text."""
        return "; ".join(dict.fromkeys(member.licence for member in self.members))

    def describe(self) -> str:
        """Return a line of text: the members, their shares and their licences."""
        members = " + ".join(
            f"{share:.2f} {member.architecture}, {member.input_size} px"
            for share, member in zip(self.shares, self.members, strict=True)
        )
        return f"{members}; {self.licence}"

    def to_json(self) -> str:
        """Return the specification as JSON text, for the header of a checkpoint."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "EnsembleSpec":
        """Return the specification with the fields of a checkpoint's header.

        Raises:
            ArgumentError: A value is out of its range, or a field of the ensemble is missing.
            TypeError: A field of a member is missing, or a field is unknown or of the wrong type.
        """
        values = dict(fields)
        try:
            values["members"] = tuple(ModelSpec.from_fields(member) for member in values["members"])
            values["shares"] = tuple(float(share) for share in values["shares"])
            values["aggregation"] = Aggregation(**values["aggregation"])
            if values["operating_points"] is not None:
                values["operating_points"] = OperatingPoints(**values["operating_points"])
        except KeyError as error:
            raise ArgumentError(f"the field {error} is missing") from error
        return cls(**values)


def join_specs(
    specs: Sequence[ModelSpec | EnsembleSpec], shares: Sequence[float] | None = None
) -> EnsembleSpec:
    """Return the specification of an ensemble of several models.

    The ensemble gets the aggregation of the first specification.

    Args:
        specs: Specifications of models or of ensembles, in order. An ensemble is replaced by its
            members. They divide its weight in proportion to their weights in the ensemble.
        shares: Weight of each specification in the mean of the logits, above 0. The weights are
            divided by their sum. None means equal weights.

    Raises:
        ArgumentError: The ensemble has fewer than 2 or more than 64 members. Or `shares` and
            `specs` differ in length, or a share is infinite or not above 0.
    """
    if not specs:
        raise ArgumentError("an ensemble needs at least 2 members, not 0")
    shares = [1.0] * len(specs) if shares is None else list(shares)
    if len(shares) != len(specs) or not all(0 < share < np.inf for share in shares):
        raise ArgumentError(
            f"shares must be numbers above 0, one for each of {len(specs)} members, not {shares}"
        )
    members = [member for spec in specs for member in spec.members]
    parts = [
        share / sum(shares) * part
        for share, spec in zip(shares, specs, strict=True)
        for part in spec.shares
    ]
    return EnsembleSpec(tuple(members), tuple(parts), specs[0].aggregation)


def spec_from_json(text: str) -> ModelSpec | EnsembleSpec:
    """Return the specification in the JSON text of a checkpoint's header.

    Raises:
        ArgumentError: The text has an unknown format or format version, or a value is out of its
            range.
        TypeError: A field is missing, unknown or of the wrong type.
        ValueError: The text is not JSON.
    """
    values = json.loads(text, parse_constant=_refuse_constant)
    kind = KINDS.get(str(values.pop("format", None))) if isinstance(values, dict) else None
    if kind is None:
        raise ArgumentError(f"the format in its header is not {' or '.join(map(repr, KINDS))}")
    if (version := values.pop("version", None)) != VERSION:
        raise ArgumentError(
            f"it has format version {version!r}, but this dfdetect reads version {VERSION}; "
            "install the release of dfdetect that wrote the file"
        )
    values.pop(CHECKSUM_KEY, None)  # the checksum is no field of a specification
    return kind.from_fields(values)


KINDS: dict[str, type[ModelSpec] | type[EnsembleSpec]] = {
    spec.FORMAT: ModelSpec,
    FORMAT: EnsembleSpec,
}


def _refuse_constant(name: str) -> None:
    raise ArgumentError(f"its header has {name} instead of a number")
