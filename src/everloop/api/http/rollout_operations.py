"""The operations on a model's traffic and its rollouts: a part of the table in `http.operations`."""

from __future__ import annotations

from everloop.api import rollout_wire
from everloop.api.http.operation import Operation

_AT = "/v1/models/{model}/rollout"


def _act(id_: str, verb: str, summary: str) -> Operation:
    return Operation(
        id_,
        "POST",
        f"{_AT}/{verb}",
        "rollouts",
        summary,
        body=rollout_wire.RolloutChange,
        body_required=False,
        example={"note": "because"},
        answer=rollout_wire.RolloutInfo,
        refusals=("rollout_not_found", "conflict"),
    )


ROLLOUTS: tuple[Operation, ...] = (
    Operation(
        "show_traffic",
        "GET",
        "/v1/models/{model}/traffic",
        "rollouts",
        "Which version should answer which share of the traffic.",
        answer=rollout_wire.TrafficInfo,
    ),
    Operation(
        "set_traffic",
        "PUT",
        "/v1/models/{model}/traffic",
        "rollouts",
        "Split the traffic by hand. Users stay where they are as far as the new shares allow. A version that is not open yet is tried "
        "in a process of its own first; the live one answers meanwhile.",
        body=rollout_wire.TrafficSplit,
        example={"weights": {"champion": 0.95, "2": 0.05}},
        answer=rollout_wire.TrafficInfo,
        refusals=("version_not_found", "conflict"),
    ),
    Operation(
        "show_rollout",
        "GET",
        _AT,
        "rollouts",
        "The newest rollout: its plan, where it stands, what was seen of both versions, what each gate makes of it.",
        answer=rollout_wire.RolloutInfo,
        refusals=("rollout_not_found",),
    ),
    Operation(
        "start_rollout",
        "POST",
        _AT,
        "rollouts",
        "Let a version prove itself: `canary`, `ab`, `shadow`, `blue_green` or `immediate`. It is tried in a process of its own first; the "
        "champion answers meanwhile.",
        body=rollout_wire.RolloutSpec,
        example={"version": 2, "strategy": "canary", "steps": "1%,5%,25%", "seconds": 300, "samples": 500},
        answer=rollout_wire.RolloutInfo,
        status=201,
        refusals=("version_not_found", "conflict", "artifact_corrupt"),
        also=((200, "It is under way already, with the same plan."),),
    ),
    _act("pause_rollout", "pause", "Everybody stays where they are; only the hard guards act by themselves."),
    _act("resume_rollout", "resume", "Go on; the pause does not count as time of the step."),
    _act("promote_rollout", "promote", "The challenger serves everybody from now on."),
    _act("roll_back_rollout", "rollback", "The champion serves everybody again, the challenger is `rejected`."),
    _act("stop_rollout", "stop", "End it without a verdict: the champion serves everybody, the challenger waits."),
    Operation(
        "list_rollouts",
        "GET",
        "/v1/models/{model}/rollouts",
        "rollouts",
        "All rollouts of a model, the newest last.",
        answer=rollout_wire.RolloutList,
    ),
)
