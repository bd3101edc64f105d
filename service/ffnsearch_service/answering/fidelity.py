"""What a manifest's measurements of fidelity say in short: a document becomes a message."""

from collections.abc import Mapping
from typing import Any

from ffnsearch.v1 import ffnsearch_pb2 as pb
from ffnsearch_service.protocols import PROTOCOLS


def fidelity_messages(fidelity: Mapping[str, Any] | None) -> list[pb.FidelitySummary]:
    """One summary for each protocol that was measured; whatever else the document has is left out."""
    return [_summary(protocol, fidelity[protocol]) for protocol in PROTOCOLS if fidelity and protocol in fidelity]


def _summary(protocol: str, document: Mapping[str, Any]) -> pb.FidelitySummary:
    distance = document["hellinger"]
    low, high = distance["ci95"]
    return pb.FidelitySummary(
        protocol=protocol,
        prompts=document["prompts"],
        profile_name=document["profile"],
        hellinger_mean=distance["mean"],
        hellinger_ci95_low=low,
        hellinger_ci95_high=high,
        hellinger_max=distance["max"],
        top1_agreement=document["top1_agreement"],
        no_support_share=document["no_support"],
        noise_floor_hellinger_mean=document["noise_floor"],
    )
