"""Rules for users: the ``[users]`` table of the site file."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from lj_services.daemon import ByteSize, Settings
from lj_services.usercluster.balance.rules import (
    BalanceRules,
    ClusterSettings,
    ClusterState,
    SurveyRules,
)


class UserSettings(Settings):
    """Where new users go, and how long a writer waits for one that is being moved."""

    cluster_weights: dict[int, int] = Field(
        default_factory=dict,
        description="cluster number -> its share of new users, times its free space; "
        "0 or not listed: takes none; empty: all clusters alike",
    )
    min_free: ByteSize = Field(
        default=64 << 20,
        description="bytes of free disk under which a cluster takes no new users, as 64m or 2g",
    )
    freeze_wait_s: float = Field(
        default=5.0, ge=0, le=60, description="seconds that a write waits for a user being moved"
    )
    route_ttl_s: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="seconds that the cache keeps a user's cluster; a move keeps the old rows "
        "for longer than this",
    )
    new_schema_ver: int | None = Field(
        default=None,
        ge=1,
        description="schema_ver of new users; unset: the newest that the program knows",
    )
    clusters: dict[int, ClusterSettings] = Field(
        default_factory=dict,
        description="cluster number -> its state (up, full, draining, dead) and capacity; "
        "not listed: up",
    )
    balance: BalanceRules = Field(
        default_factory=BalanceRules, description="when users should move, and which"
    )
    survey: SurveyRules = Field(
        default_factory=SurveyRules, description="how users' sizes are collected"
    )

    def cluster(self, clusterid: int) -> ClusterSettings:
        """What the site file says of a cluster."""
        return self.clusters.get(clusterid) or ClusterSettings()

    def weights(self, clusters: Iterable[int]) -> dict[int, int]:
        """Each of these clusters' share of new users: none for one that is not up."""
        return {
            number: (self.cluster_weights.get(number, 0) if self.cluster_weights else 100)
            if self.cluster(number).state is ClusterState.UP
            else 0
            for number in clusters
        }

    @field_validator("cluster_weights")
    @classmethod
    def _weights(cls, weights: dict[int, int]) -> dict[int, int]:
        for cluster, weight in weights.items():
            if cluster < 1 or not 0 <= weight <= 1_000_000:
                raise PydanticCustomError(
                    "cluster_weight",
                    "{entry}: clusters are numbered from 1, weights are 0..1000000",
                    {"entry": f"{cluster} = {weight}"},
                )
        return weights
