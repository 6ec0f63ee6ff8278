"""What labels say of a model's answers, without a protocol. As in `api.verbs`, on a thread: stores are read."""

from __future__ import annotations

from everloop.api.services import Services
from everloop.api.verbs import find_model
from everloop.api.wire import QualityInfo, VersionQuality
from everloop.registry.traffic import weights_of


def quality(services: Services, name: str) -> QualityInfo:
    """Versions side by side, overall and over their newest labels, beside the no-change baseline. Raises ModelNotFound, Starting."""
    model = find_model(services, name)
    status = services.loop.status(name)
    report = status.quality
    judged, shares = report.get("versions", {}), weights_of(model)
    return QualityInfo(
        model=name,
        task=model.task,
        learns_here=status.learns_here,
        overall={key: value for key, value in report.items() if key not in {"window", "versions"}},
        window=report.get("window", {}),
        versions=[
            VersionQuality(
                version=record.version,
                name=record.name,
                status=record.status,
                share=shares.get(record.version, 0.0),
                overall={key: value for key, value in judged[str(record.version)].items() if key != "window"},
                window=judged[str(record.version)]["window"],
            )
            for record in services.registry.versions(name)
            if str(record.version) in judged
        ],
    )
