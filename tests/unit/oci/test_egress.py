"""The rules of a container: its own and the operator's."""

import pytest

from cloche.oci.egress import ANNOTATION, check_joined
from cloche.oci.errors import OciError


def test_a_container_of_a_pod_has_the_pod_s_rules() -> None:
    """It must not rely on rules that are not applied."""
    rules = {ANNOTATION: "good.test"}
    for asked, first in (({}, {}), ({}, rules), (rules, rules)):
        check_joined(asked, first)
    for asked, first in ((rules, {}), (rules, {ANNOTATION: "good.test other.test"})):
        with pytest.raises(OciError, match="annotate the pod"):
            check_joined(asked, first)
