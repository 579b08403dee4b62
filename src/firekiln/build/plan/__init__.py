"""The pure planner: a typed Dockerfile, arguments and base configs become the graph of what the target needs."""

from firekiln.build.plan.options import BaseConfigs, PlanOptions
from firekiln.build.plan.planner import plan
from firekiln.build.plan.view import plan_to_json

__all__ = ["BaseConfigs", "PlanOptions", "plan", "plan_to_json"]
